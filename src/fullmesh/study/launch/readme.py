"""The README of a launch folder: the plan and its prediction, what to edit, what no setting says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fullmesh import __version__
from fullmesh.cost.effects import known_stacks
from fullmesh.machine.software import load_software
from fullmesh.outcomes.estimate import Estimate
from fullmesh.output import formats
from fullmesh.plan.plan import FIELDS
from fullmesh.study.launch.read import by_release

_EDIT: Mapping[str, tuple[str, ...]] = {
    "megatron": ("MEGATRON", "DATA_PATH", "ROTARY_BASE", "TRAIN_ITERS", "CHECKPOINTS"),
    "mindspeed": ("MINDSPEED_LLM", "DATA_PATH", "ROTARY_BASE", "TRAIN_ITERS", "CHECKPOINTS"),
}
_EDIT_TEXT = {
    "MEGATRON": "`MEGATRON`: where Megatron-LM lies (core 0.16 or later).",
    "MINDSPEED_LLM": "`MINDSPEED_LLM`: where MindSpeed-LLM lies, with MindSpeed and Megatron core 0.12 or later.",
    "DATA_PATH": "`DATA_PATH`: your preprocessed data. Without it the run trains on mock data, which is as fast. "
    "With it, replace `--tokenizer-type NullTokenizer` and `--vocab-size` by your tokenizer.",
    "ROTARY_BASE": "`ROTARY_BASE`: of the model's `config.json`, with any scaling. It changes no speed.",
    "TRAIN_ITERS": "`TRAIN_ITERS`, learning rate, warm-up, `--save-interval`.",
    "CHECKPOINTS": "`CHECKPOINTS`: a folder that every node sees.",
}
_EDIT_OTHER: Mapping[str, tuple[str, ...]] = {
    "megatron-bridge": (

        "`dataset`: mock data; put a `GPTDatasetConfig` with your `blend` in its place, and your tokenizer.",
        "`optimizer`, `scheduler`, `train.train_iters`, `checkpoint.save`.",
        "`model.rotary_base` of the model's `config.json`, with any scaling. It changes no speed.",
    ),
    "mindformers": (
        "`MINDFORMERS` in `train.sh`: where MindFormers lies.",
        "`train_dataset`: the path of your data, and its number of samples under `sizes`.",
        "`optimizer`, `lr_schedule`, `callbacks` for checkpoints.",
        "`rope_theta` of the model's `config.json`. It changes no speed.",
    ),
    "torchtitan": (
        "`training.dataset` and `model.hf_assets_path`: your data and the folder of the tokenizer.",
        "`optimizer`, `lr_scheduler`, `training.steps`, `checkpoint`.",
        "`rope_theta`, score function and routing scale of the model in `model.toml`. They change no speed.",
        "Releases from 0.3 on take Python configurations: install `torchtitan<0.3`.",
    ),
    "deepspeed": (
        "`batches()` in `train.py`: your data and tokenizer in place of random tokens.",
        "`optimizer` in `ds_config.json`, a learning-rate schedule, checkpoints.",
        "What `config.json` does not say (rotary base, scaling). It changes no speed.",
    ),
}  # fmt: skip
_HOSTS = (
    "`NNODES`, `MASTER_ADDR`, `MASTER_PORT`, `NODE_RANK`: your hosts; under Slurm `train.sbatch` sets them."
)


def readme_texts(
    e: Estimate, framework: str, label: str, folder: str, notes: Sequence[str]
) -> dict[str, str]:
    """What is put into the template of the README, by name."""
    edit = [_EDIT_TEXT[key] for key in _EDIT.get(framework, ())] or list(_EDIT_OTHER[framework])
    release = by_release(framework)
    interval = e.interval
    known = math.isfinite(interval.low_s)
    said = [f"- `{name} = {getattr(e.plan, name)}`: {FIELDS[name].en}" for name in release]
    return {
        "VERSION": __version__,
        "LABEL": label,
        "START": "bash train.sh",
        "PLAN": e.plan.text(),
        "STEP": formats.seconds(e.step_s),
        "INTERVAL": f"{formats.seconds(interval.low_s)} to {formats.seconds(interval.high_s)}"
        if known
        else "unknown",
        "TOKENS": f"{e.tokens_per_s:,.0f}",
        "MFU": formats.percent(e.mfu),
        "MEMORY": f"{formats.gigabytes(e.memory_bytes)} of {formats.gigabytes(e.capacity_bytes)}",
        "FOLDER": folder,
        "MACHINE": e.machine.id,
        "SOFTWARE": _software(e, framework),
        "EDIT": "\n".join(f"- {line}" for line in (*edit, _HOSTS)),
        "RELEASE": "\n".join(said),
        "NOTES": "".join(f"\n{note}\n" for note in notes),
    }


def _software(e: Estimate, framework: str) -> str:
    """The option that gives the release of the plan back, empty where no name stands for it."""
    stack = e.plan.stack
    for entry in load_software().values():
        options = entry.options_for(moe=e.model.is_moe)
        wanted = {f: options.get(f, FIELDS[f].default) for f in by_release(framework)}
        wanted["stack"] = entry.stack
        if all(getattr(e.plan, field) == value for field, value in wanted.items()):
            return f" --software {entry.name}"
    return f" --software {stack}" if stack in known_stacks() else ""


def rounded_text(share: float, wanted: float) -> str:
    """That another share of the layers recomputes than was asked for."""
    return f"Recomputation in {share:.1%} of the layers instead of {wanted:.1%}: whole layers of a stage."


GRAPH_AND_OVERLAP = (
    "Megatron core up to 0.16 refuses a graph of the whole iteration beside overlapped expert traffic; later releases "
    "capture both."
)
