#!/usr/bin/env bash
# @TITLE@
# Starts one node; @DEVICES@ devices on @NODES@ nodes of @LOCAL@. README.md says what to edit.
set -euo pipefail
cd "$(dirname "$0")"

MINDFORMERS=${MINDFORMERS:-./mindformers}
NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
MASTER_PORT=${MASTER_PORT:-8118}

msrun --worker_num=@DEVICES@ --local_worker_num=@LOCAL@ \
    --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT" --node_rank="$NODE_RANK" \
    --log_dir=./msrun_log --join=True --cluster_time_out=7200 \
    "$MINDFORMERS/run_mindformer.py" --config train.yaml
