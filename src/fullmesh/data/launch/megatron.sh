#!/usr/bin/env bash
# @TITLE@
# Starts one node; @DEVICES@ devices on @NODES@ nodes of @LOCAL@. README.md says what to edit.
set -euo pipefail
cd "$(dirname "$0")"

MEGATRON=${MEGATRON:-./Megatron-LM}
DATA_PATH=${DATA_PATH:-}
CHECKPOINTS=${CHECKPOINTS:-./checkpoints}
ROTARY_BASE=${ROTARY_BASE:-10000}
TRAIN_ITERS=${TRAIN_ITERS:-100}
NNODES=${NNODES:-@NODES@}
GPUS_PER_NODE=${GPUS_PER_NODE:-@LOCAL@}
NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-localhost}
MASTER_PORT=${MASTER_PORT:-29500}

export CUDA_DEVICE_MAX_CONNECTIONS=@CONNECTIONS@
@ENVIRONMENT@
LAUNCHER=(torchrun
    --nproc-per-node "$GPUS_PER_NODE" --nnodes "$NNODES" --node-rank "$NODE_RANK"
    --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT"
)
MODEL_ARGS=(
@MODEL_ARGS@
)
PLAN_ARGS=(
@PLAN_ARGS@
)
TRAIN_ARGS=(
    --train-iters "$TRAIN_ITERS"
    --lr 1e-4 --min-lr 1e-5 --lr-decay-style cosine --lr-warmup-iters 10
    --weight-decay 0.1 --clip-grad 1.0 --adam-beta1 0.9 --adam-beta2 0.95
    --attention-dropout 0.0 --hidden-dropout 0.0 --init-method-std 0.02
    --log-interval 1 --log-throughput --eval-iters 0 --eval-interval 1000
    --save "$CHECKPOINTS" --save-interval 1000
@EXTRA_ARGS@
)
DATA_ARGS=(--mock-data)
if [ -n "$DATA_PATH" ]; then
    DATA_ARGS=(--data-path "$DATA_PATH")
fi

"${LAUNCHER[@]}" "$MEGATRON/@SCRIPT@" \
    "${MODEL_ARGS[@]}" "${PLAN_ARGS[@]}" "${TRAIN_ARGS[@]}" "${DATA_ARGS[@]}"
