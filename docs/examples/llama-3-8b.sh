#!/usr/bin/env bash
# Llama 3 8B with Megatron-LM on one node, as a user may have it: fullmesh check docs/examples/llama-3-8b.sh --on h200
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
MODEL_ARGS=(
    --num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32
    --group-query-attention --num-query-groups 8 --swiglu --disable-bias-linear
    --normalization RMSNorm --position-embedding-type rope --rotary-base 500000
    --untie-embeddings-and-output-weights --tokenizer-type HuggingFaceTokenizer --tokenizer-model ./llama-3
)
PARALLEL_ARGS=(--tensor-model-parallel-size 2 --sequence-parallel --use-distributed-optimizer --overlap-grad-reduce)
torchrun --nproc-per-node "$GPUS_PER_NODE" pretrain_gpt.py "${MODEL_ARGS[@]}" "${PARALLEL_ARGS[@]}" \
    --seq-length 8192 --micro-batch-size 1 --global-batch-size 128 --bf16 --train-iters 1000 --lr 3e-4
