"""Folders that start: a plan and its model in the files of a training framework, whole or not at all."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fullmesh.errors import ExportError, ScenarioError, did_you_mean
from fullmesh.files import check_folder, write_folder
from fullmesh.outcomes.estimate import Estimate, estimate
from fullmesh.plan import Plan
from fullmesh.plan.plan import FIELDS
from fullmesh.study.launch.bridge import bridge_config, read_bridge
from fullmesh.study.launch.deepspeed import deepspeed_config, read_deepspeed
from fullmesh.study.launch.megatron import megatron_settings, option_words, read_megatron
from fullmesh.study.launch.mindformers import mindformers_config, read_mindformers
from fullmesh.study.launch.outline import differences, outline
from fullmesh.study.launch.read import Read, by_release, plan_differences
from fullmesh.study.launch.readme import GRAPH_AND_OVERLAP, readme_texts, rounded_text
from fullmesh.study.launch.shell import options_of
from fullmesh.study.launch.titan import read_titan, titan_config
from fullmesh.study.launch.yaml_text import parse_yaml, yaml_text
from fullmesh.workload import ModelSpec
from fullmesh.workload.readers.config import Config
from fullmesh.workload.readers.huggingface import model_from_config

#: What can be written, with the words that people use.
FRAMEWORKS: Mapping[str, str] = {
    "megatron": "Megatron-LM",
    "megatron-bridge": "Megatron-Bridge",
    "mindspeed": "MindSpeed-LLM",
    "mindformers": "MindFormers",
    "torchtitan": "torchtitan 0.2",
    "deepspeed": "DeepSpeed",
}
_MODEL_OPTIONS = "num-layers"
# options of the model come before the first of these
_FIRST_OF_PLAN = "tensor-model-parallel-size"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Files by name, and what reading them gives back."""

    files: dict[str, str]
    read: Read


def check_target(framework: str, folder: str | Path | None) -> None:
    """Refuse, before any long work, a framework that is unknown and a folder that could not be written.

    Raises
    ------
    ScenarioError, OutputError
    """
    if framework not in FRAMEWORKS:
        raise ScenarioError(
            f"unknown framework {framework[:60]!r}",
            where="--export",
            expected="one of " + ", ".join(FRAMEWORKS),
            hint=did_you_mean(framework, list(FRAMEWORKS)),
        )
    if folder is None:
        raise ScenarioError(
            "no folder is named",
            where="--export",
            expected="--to FOLDER",
            hint=f"for instance --export {framework} --to launch",
        )
    check_folder(folder, where="--to")


def export_estimate(e: Estimate, framework: str, folder: str | Path) -> None:
    """Write a plan as a folder that starts.

    What is written is read back first: a plan or a model that would come back as another one is refused.

    Raises
    ------
    ExportError
        The framework has no settings for the plan or the model.
    ScenarioError, OutputError
        The framework is unknown, or the folder cannot be written.
    """
    check_target(framework, folder)
    write_folder(folder, launch_files(e, framework, Path(folder).name), where="--to")


def launch_files(e: Estimate, framework: str, folder: str = "launch") -> dict[str, str]:
    """All files of such a folder by name.

    Raises
    ------
    ExportError
    """
    written, plan, notes = as_written(e.plan, e.model, framework)
    if plan != e.plan:
        again = estimate(e.model, e.machine, plan)
        if not isinstance(again, Estimate):
            raise ExportError(
                f"{FRAMEWORKS[framework]} rounds the recompute of the plan, which then no longer fits",
                where="--export",
            )
        e = again
    names = _names(e, framework)
    files = {name: _filled(text, names) for name, text in written.files.items()}
    files["train.sbatch"] = _filled(_template("slurm.sbatch"), names)
    files["README.md"] = _filled(
        _template("README.md"), names | readme_texts(e, framework, FRAMEWORKS[framework], folder, notes)
    )
    return files


def as_written(plan: Plan, model: ModelSpec, framework: str) -> tuple[Written, Plan, list[str]]:
    """The files, the plan that they say, and in what it was rounded.

    Raises
    ------
    ExportError
        What the files say is another plan or another model; the message names the fields.
    """
    written = _WRITERS[framework](plan, model)
    back = plan_of(written.read, plan)
    found = written.read.model
    assert found is not None, "every export says its model"
    wrong = plan_differences(plan, back, model)
    notes = []
    if wrong == ["recompute_fraction"]:
        # layers are whole: the nearest number of them
        notes.append(rounded_text(back.recompute_fraction, plan.recompute_fraction))
        wrong, plan = [], dataclasses.replace(plan, recompute_fraction=back.recompute_fraction)
    wrong += differences(model, found)
    hides = plan.ep > 1 and plan.ep_overlap
    if framework in ("megatron", "megatron-bridge") and hides and plan.cuda_graph == "full":
        notes.append(GRAPH_AND_OVERLAP)
    if wrong:
        said = ", ".join(
            f"{name} = {getattr(plan, name)}" if name in FIELDS else f"its {name}" for name in wrong
        )
        raise ExportError(
            f"{FRAMEWORKS[framework]} has no settings for {said} of {model.name}",
            where="--export",
            expected="a plan that the framework can run as it was priced",
        )
    return written, plan, notes


def plan_of(read: Read, base: Plan) -> Plan:
    """The plan of a launch file, with the data parallelism of ``base`` and what a release decides by itself."""
    fields = {name: getattr(base, name) for name in by_release(read.framework)} | read.fields
    return Plan(**resolved(fields, base.dp))


def resolved(fields: Mapping[str, Any], dp: int) -> dict[str, Any]:
    """Fields of a plan from what files say in numbers of their own: batches and groups by rank."""
    out = dict(fields)
    out["dp"] = dp
    local, steps = out.pop("local", 0), out.pop("steps", 0)
    if not out["gbs"]:
        out["gbs"] = local * dp
    if not out["mbs"]:
        out["mbs"] = max(1, out["gbs"] // (dp * max(1, steps)))
    groups = out.pop("shard_of", 0)
    if groups:
        out["shard"] = max(1, dp * out.get("cp", 1) // groups)
    out.pop("recompute_layers", None)
    return out


# --- writers -----------------------------------------------------------------------------------------------------


def _megatron(plan: Plan, model: ModelSpec, dialect: str = "megatron") -> Written:
    settings = megatron_settings(plan, outline(model), dialect)
    lines = [f"    {' '.join(_quoted(w) for w in words)}" for words in option_words(settings)]
    first = list(settings).index(_FIRST_OF_PLAN)
    model_lines, plan_lines = lines[:first], lines[first:]
    if settings["position-embedding-type"] == "rope":
        model_lines.append('    --rotary-base "$ROTARY_BASE"')
    text = _filled(
        _template("megatron.sh"),
        {"MODEL_ARGS": "\n".join(model_lines), "PLAN_ARGS": "\n".join(plan_lines)},
    )
    if dialect == "mindspeed":
        text = text.replace("./Megatron-LM", "./MindSpeed-LLM").replace("MEGATRON", "MINDSPEED_LLM")
    words = tuple(w for group in option_words(settings) for w in group)
    return Written(
        files={"train.sh": text}, read=read_megatron(options_of(words, "train.sh"), "train.sh", dialect)
    )  # fmt: skip


def _mindspeed(plan: Plan, model: ModelSpec) -> Written:
    return _megatron(plan, model, "mindspeed")


def _bridge(plan: Plan, model: ModelSpec) -> Written:
    text = yaml_text(bridge_config(plan, outline(model)))
    return Written(
        files={
            "config.yaml": text,
            "pretrain.py": _template("bridge_pretrain.py.txt"),
            "train.sh": _launcher("pretrain.py config.yaml"),
        },
        read=read_bridge(parse_yaml(text, where="config.yaml"), "config.yaml"),
    )


def _titan(plan: Plan, model: ModelSpec) -> Written:
    config, sizes = titan_config(plan, outline(model))
    return Written(
        files={
            "train.toml": toml_text(config),
            "model.toml": toml_text(sizes),
            "fullmesh_model.py": _template("titan_model.py.txt"),
            "train.sh": _launcher("-m torchtitan.train --job.config_file train.toml"),
        },
        read=read_titan(config, "train.toml", sizes=sizes),
    )


def _deepspeed(plan: Plan, model: ModelSpec) -> Written:
    config, sizes, script = deepspeed_config(plan, model)
    found = model_from_config(Config(sizes, "config.json"), fallback=model.id)
    return Written(
        files={
            "ds_config.json": json.dumps(config, indent=2) + "\n",
            "config.json": json.dumps(sizes, indent=2) + "\n",
            "run.json": json.dumps(script, indent=2) + "\n",
            "train.py": _template("deepspeed_train.py.txt"),
            "train.sh": _launcher("train.py --deepspeed_config ds_config.json"),
        },
        read=read_deepspeed(config, "ds_config.json", script=script, model=found),
    )


def _mindformers(plan: Plan, model: ModelSpec) -> Written:
    text = yaml_text(mindformers_config(plan, outline(model)))
    return Written(
        files={"train.yaml": text, "train.sh": _template("mindformers.sh")},
        read=read_mindformers(parse_yaml(text, where="train.yaml"), "train.yaml"),
    )


_WRITERS = {
    "megatron": _megatron,
    "megatron-bridge": _bridge,
    "mindspeed": _mindspeed,
    "mindformers": _mindformers,
    "torchtitan": _titan,
    "deepspeed": _deepspeed,
}


def toml_text(table: Mapping[str, Any], head: str = "") -> str:
    """Nested tables as TOML: plain values first, then tables."""
    plain = "".join(f"{k} = {_toml_value(v)}\n" for k, v in table.items() if not isinstance(v, Mapping))
    out = (f"[{head}]\n" if head and plain else "") + plain
    for key, value in table.items():
        if isinstance(value, Mapping):
            out += ("\n" if out else "") + toml_text(value, f"{head}.{key}" if head else str(key))
    return out


def _toml_value(value: Any) -> str:
    # JSON writes texts, numbers, booleans and lists of them as TOML does
    return json.dumps(value)


def _quoted(word: str) -> str:
    plain = all(c.isalnum() or c in "-_.,/:=" for c in word)
    return word if plain else "'" + word.replace("'", "'\\''") + "'"


# --- texts -------------------------------------------------------------------------------------------------------


def _template(name: str) -> str:
    return importlib.resources.files("fullmesh.data").joinpath(f"launch/{name}").read_text("utf-8")


def _launcher(command: str) -> str:
    return _filled(_template("launcher.sh"), {"COMMAND": command})


def _filled(text: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(f"@{name}@", value)
    return text


def _names(e: Estimate, framework: str) -> dict[str, str]:
    """What every file of a folder may say."""
    p = e.plan
    local = min(e.machine.devices_per_node, p.num_devices)
    while p.num_devices % local:
        local -= 1
    hides = p.ep > 1 and p.ep_overlap
    environment = {
        "torchtitan": 'export PYTHONPATH=".:${PYTHONPATH:-}"\n',
        "mindspeed": "export HCCL_CONNECT_TIMEOUT=3600\nexport TASK_QUEUE_ENABLE=2\n",
    }.get(framework, "")
    fused = "--use-fused-rmsnorm --use-fused-swiglu --use-fused-rotary-pos-emb"
    extra = f"    --use-mcore-models {fused} --distributed-backend nccl"
    return {
        "TITLE": f"{e.model.name} on {p.num_devices:,} devices of {e.machine.name}, {FRAMEWORKS[framework]}",
        "JOB": f"{e.model.id}-{p.num_devices}"[:60],
        "DEVICES": str(p.num_devices),
        "NODES": str(p.num_devices // local),
        "LOCAL": str(local),
        # several streams are served by one queue each: one keeps the order that overlap in tensor groups relies on
        "CONNECTIONS": "32" if p.zero >= 2 or hides else "1",
        "ENVIRONMENT": environment,
        "SCRIPT": "pretrain_gpt.py",
        "EXTRA_ARGS": extra
        if framework == "mindspeed"
        else "    --use-mcore-models --distributed-backend nccl",
    }
