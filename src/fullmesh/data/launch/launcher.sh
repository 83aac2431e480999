#!/usr/bin/env bash
# @TITLE@
# Starts one node; @DEVICES@ devices on @NODES@ nodes of @LOCAL@. README.md says what to edit.
set -euo pipefail
cd "$(dirname "$0")"

NNODES=${NNODES:-@NODES@}
GPUS_PER_NODE=${GPUS_PER_NODE:-@LOCAL@}
NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-localhost}
MASTER_PORT=${MASTER_PORT:-29500}
@ENVIRONMENT@
torchrun \
    --nproc-per-node "$GPUS_PER_NODE" --nnodes "$NNODES" --node-rank "$NODE_RANK" \
    --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" \
    @COMMAND@
