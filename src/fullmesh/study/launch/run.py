"""A run as its user has it: a launch file of any of the frameworks, a folder of them, a command line, or a scenario."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fullmesh.cost.effects import UNKNOWN, known_stacks
from fullmesh.errors import FullmeshError, LaunchError, PlanError
from fullmesh.evidence.mapping import stack_options
from fullmesh.machine import Machine, load_machine
from fullmesh.machine.software import load_software
from fullmesh.outcomes.estimate import supported_precision
from fullmesh.plan import Plan
from fullmesh.plan.plan import check_plan
from fullmesh.plan.software import CAPABILITIES, Software, software_of
from fullmesh.reading import LARGEST_JSON_BYTES, is_file, parse_json, parse_toml, read_text
from fullmesh.study.launch.bridge import read_bridge
from fullmesh.study.launch.deepspeed import read_deepspeed
from fullmesh.study.launch.folder import resolved
from fullmesh.study.launch.megatron import read_megatron
from fullmesh.study.launch.mindformers import read_mindformers
from fullmesh.study.launch.read import Read
from fullmesh.study.launch.shell import Command, launched_devices, options_of, read_script
from fullmesh.study.launch.taken import Settings, nested
from fullmesh.study.launch.titan import read_titan
from fullmesh.study.launch.yaml_text import parse_yaml
from fullmesh.study.options import named_software
from fullmesh.study.scenario import load_scenario
from fullmesh.workload import ModelSpec
from fullmesh.workload.readers.huggingface import load_model

_HINT = "docs/reference.md lists what `fullmesh check` reads"
# what stands in a folder that `--export` wrote, the telling file first
_IN_FOLDERS = ("train.sh", "train.toml", "config.yaml", "ds_config.json", "train.yaml")
# options that only MindSpeed has
_MINDSPEED = (
    "use-ascend-mc2", "use-ascend-coc", "use-mc2", "use-fused-rmsnorm", "use-fused-swiglu",
    "use-fused-rotary-pos-emb", "context-parallel-algo", "moe-alltoall-overlap-comm", "moe-fb-overlap",
    "num-layer-list", "swap-optimizer", "swap-attention", "moe-tp-extend-ep", "reuse-fp32-param",
    "transformer-impl-npu", "sparse-mode", "noop-layers", "schedules-method",
)  # fmt: skip
#: Software that a launch file is for where the user names none: of the framework, or None for the machine's own.
_SOFTWARE: Mapping[str, str | None] = {
    "megatron": "megatron-core", "megatron-bridge": None, "mindspeed": "mindspeed", "mindformers": "mindspore",
    "torchtitan": "torchtitan", "deepspeed": "deepspeed",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run on a machine under a plan.

    Parameters
    ----------
    framework : str
        ``scenario`` for a scenario file.
    assumed : tuple of str
        What was taken where the files are silent.
    left : tuple of str
        Settings that were not understood.
    software : str
        In words, whose release the prediction is for.
    """

    model: ModelSpec
    machine: Machine
    plan: Plan
    framework: str
    software: str
    assumed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def load_run(
    source: str | Path,
    on: str | Machine | None,
    *,
    chips: int | None = None,
    model: str | Path | ModelSpec | None = None,
    seq: int | None = None,
    software: Software | None = None,
) -> Run:
    """Read a run.

    Parameters
    ----------
    source : str or path
        A launch file, a folder of launch files, a scenario file, or a command line as one text.
    on : str or Machine
        Where it runs; a scenario names its own machine.
    chips : int, optional
        Devices of the whole run, where the files do not say.
    model : str, path or ModelSpec, optional
        Instead of what the files say of one.

    Raises
    ------
    LaunchError, ScenarioError, PlanError, ModelError, CatalogError
    """
    text, path = _source(source)
    if path is not None and path.suffix.lower() == ".toml":
        data = parse_toml(text, where=str(path), error=LaunchError, hint=_HINT)
        if {"model", "machine", "plan"} <= set(data):
            return _scenario(path, on, chips, software)
    spec = load_model(model) if model is not None and not isinstance(model, ModelSpec) else model
    found = read_launch(text, path, model=spec, seq=seq)
    if on is None:
        raise LaunchError(
            "no machine is named", where="--on", expected="a machine of the catalog, or a machine file"
        )
    return _run(found, on, chips, spec, software, str(path or "RUN"))


def _source(source: str | Path) -> tuple[str, Path | None]:
    """The text of a run and its file, None for a command line."""
    path = Path(source)
    try:
        folder = path.is_dir()
    except (OSError, ValueError):
        folder = False
    if folder:
        names = [name for name in _IN_FOLDERS if (path / name).is_file()]
        if not names:
            raise LaunchError(
                "the folder holds no launch file",
                where=str(path),
                expected="one of " + ", ".join(_IN_FOLDERS),
                hint="name the file itself",
            )
        path = path / names[0]
    elif not is_file(path):
        if " --" in str(source) or re.search(r"\s[\w.]+=", str(source)):
            return str(source), None
        raise LaunchError(
            f"there is no file {str(source)[:200]!r}",
            where="RUN",
            expected="a launch file, a folder, a scenario file, or a command line in quotes",
            hint=_HINT,
        )
    text = read_text(
        path, what="the launch file", most_bytes=LARGEST_JSON_BYTES, error=LaunchError, hint=_HINT
    )
    return text, path


def _scenario(path: Path, on: str | Machine | None, chips: int | None, software: Software | None) -> Run:
    found = load_scenario(path, software=software)
    if on is not None or chips is not None:
        named = found.machine if on is None else on if isinstance(on, Machine) else load_machine(on)
        if named.id != found.machine.id or chips not in (None, found.machine.num_devices):
            raise LaunchError(
                f"the scenario is for {found.machine.num_devices:,} devices of {found.machine.name}",
                where="--on",
                expected="the machine of the scenario, or none",
                hint="change it in the scenario",
            )
    label = found.plan.stack or "unknown"
    return Run(
        model=found.model, machine=found.machine, plan=found.plan, framework="scenario", software=label
    )  # fmt: skip


def read_launch(
    text: str, path: Path | None, *, model: ModelSpec | None = None, seq: int | None = None
) -> Read:
    """What a launch file says, by its ending and its keys.

    Raises
    ------
    LaunchError
    """
    where = str(path or "RUN")
    ending = path.suffix.lower() if path else ""
    if ending == ".toml":
        return _titan(parse_toml(text, where=where, error=LaunchError, hint=_HINT), path, model, where)
    if ending in (".yaml", ".yml"):
        tree = parse_yaml(text, where=where)
        bridge = "_target_" in tree or ("model" in tree and "parallel_config" not in tree and "ddp" in tree)
        return read_bridge(tree, where, model=model) if bridge else read_mindformers(tree, where, model=model)
    if ending == ".json":
        data = parse_json(
            text, where=where, error=LaunchError, expected="a configuration of DeepSpeed", hint=_HINT
        )
        if not isinstance(data, dict):
            raise LaunchError("this is no JSON object", where=where, expected="a configuration of DeepSpeed")
        return _deepspeed(data, path, model, seq, where)
    return _script(text, path, model, seq, where)


def _titan(data: Mapping[str, Any], path: Path | None, model: ModelSpec | None, where: str) -> Read:
    sizes = None
    beside = path.parent / "model.toml" if path else None
    if model is None and beside is not None and is_file(beside):
        text = read_text(
            beside, what="the sizes of the model", most_bytes=LARGEST_JSON_BYTES, error=LaunchError
        )
        sizes = parse_toml(text, where=str(beside), error=LaunchError)
    return read_titan(data, where, sizes=sizes, model=model)


def _deepspeed(
    data: Mapping[str, Any], path: Path | None, model: ModelSpec | None, seq: int | None, where: str
) -> Read:
    script = None
    if path is not None:
        beside = path.parent / "run.json"
        if is_file(beside):
            text = read_text(
                beside, what="the settings of the script", most_bytes=LARGEST_JSON_BYTES, error=LaunchError
            )
            found = parse_json(text, where=str(beside), error=LaunchError)
            script = found if isinstance(found, dict) else None
        if model is None and is_file(path.parent / "config.json"):
            model = load_model(path.parent / "config.json")
    return read_deepspeed(data, where, script=script, model=model, seq=seq)


def _script(text: str, path: Path | None, model: ModelSpec | None, seq: int | None, where: str) -> Read:
    """A shell script or a command line: the command with the most options is the run."""
    commands = read_script(text, where)
    if not commands:
        raise LaunchError(
            "the file starts nothing", where=where, expected="a command with options", hint=_HINT
        )
    best = max(commands, key=lambda c: sum(w.startswith("--") or _is_override(w) for w in c.words))
    devices = launched_devices(best.words, {}, where)
    found = _of_command(best, path, model, seq, where)
    return dataclasses.replace(found, devices=devices or found.devices)


def _is_override(word: str) -> bool:
    return re.match(r"[+]{0,2}(?:model|train|ddp|optimizer|dataset|comm_overlap)\.\w+=", word) is not None


def _of_command(
    command: Command, path: Path | None, model: ModelSpec | None, seq: int | None, where: str
) -> Read:
    words = command.words
    programs = [
        i
        for i, w in enumerate(words)
        if w.endswith(".py") or w in ("torchtitan.train", "torchtitan/train.py")
    ]
    behind = words[programs[-1] + 1 :] if programs else words
    overrides = [w.lstrip("+") for w in words if _is_override(w)]
    options = options_of(tuple(w for w in behind if not _is_override(w)), where)
    for name, reader in (
        ("job.config-file", "toml"), ("deepspeed-config", "json"), ("config", "yaml"), ("config-file", "yaml"),
    ):  # fmt: skip
        value = options.get(name) or (options.get("deepspeed") if reader == "json" else None)
        if isinstance(value, str) and value.endswith((".toml", ".json", ".yaml", ".yml")):
            return _of_config(value, path, options, model, seq, where)
    if overrides:
        settings: Settings = {}
        for word in overrides:
            name, _, value = word.partition("=")
            settings[name] = _override_value(value)
        recipe = options.get("recipe") or options.get("model-recipe-name")
        if model is None and isinstance(recipe, str):
            model = _of_recipe(recipe)
        return read_bridge(nested(settings), where, model=model)
    # one's own config.yaml of Megatron-Bridge stands without an option
    for word in behind[:1]:
        if word.endswith((".yaml", ".yml")):
            return _of_config(word, path, options, model, seq, where)
    if not options:
        raise LaunchError("no command of the file has options of a run", where=where, hint=_HINT)
    spoken = any(name in options for name in _MINDSPEED) or any("mindspeed" in w.lower() for w in words)
    return read_megatron(options, where, "mindspeed" if spoken else "megatron", model=model)


def _override_value(text: str) -> Any:
    low = text.strip("'\"").lower()
    if low in ("true", "false"):
        return low == "true"
    return None if low in ("null", "none") else text.strip("'\"")


def _of_recipe(name: str) -> ModelSpec | None:
    """The model that a recipe of Megatron-Bridge is named after (``llama3_8b_pretrain_config``)."""
    words = re.sub(r"_(?:pretrain|finetune|sft|config|low_precision|\d+gpu|16k|64k|128k).*$", "", name)
    try:
        return load_model(words)
    except FullmeshError:
        return None


def _of_config(
    name: str, path: Path | None, options: Settings, model: ModelSpec | None, seq: int | None, where: str
) -> Read:
    """The configuration that a command names, with what the command says otherwise."""
    config = (path.parent if path else Path()) / name
    text = read_text(
        config, what="the launch file", most_bytes=LARGEST_JSON_BYTES, error=LaunchError, hint=_HINT
    )
    if config.suffix.lower() != ".toml":
        return read_launch(text, config, model=model, seq=seq)
    data = parse_toml(text, where=str(config), error=LaunchError, hint=_HINT)
    for option, value in options.items():
        section, _, key = option.partition(".")
        if key and isinstance(data.get(section, {}), dict):
            data.setdefault(section, {})[key.replace("-", "_")] = value
    return _titan(data, config, model, where)


def _run(
    found: Read,
    on: str | Machine,
    chips: int | None,
    model: ModelSpec | None,
    software: Software | None,
    where: str,
) -> Run:
    model = model or found.model
    if model is None:
        raise LaunchError(
            "the file does not say which model it trains",
            where=where,
            expected="the sizes of a model, or --model",
            hint="name the model with --model",
        )
    named = on if isinstance(on, Machine) else load_machine(on)
    fields = dict(found.fields)
    inner = fields.get("tp", 1) * fields.get("pp", 1) * fields.get("cp", 1)
    devices = chips or found.devices or named.num_devices
    assumed = list(found.assumed)
    if chips is None and found.devices is None:
        assumed.append(f"{devices:,} devices, all of {named.name}, since the launcher does not say")
    if chips is not None and found.devices not in (None, chips):
        assumed.append(f"{chips:,} devices as asked for, though the file starts {found.devices:,}")
    if devices % inner:
        raise PlanError(
            f"tp x cp x pp = {inner} does not divide {devices:,} devices",
            where=where,
            expected="a multiple of the degrees",
            hint="say with --chips how many devices the run has",
        )
    software = software or _software_for(found.framework, named)
    try:
        machine = named.resized(devices)
    except FullmeshError as error:
        raise type(error)(error.what, where="--chips", expected=error.expected, hint=error.hint) from None
    values = {"stack": software.stack, **software.options_for(moe=model.is_moe)}
    dp = devices // inner
    local = fields.get("local", 0)
    if not fields.get("gbs") and not local:
        raise LaunchError("no batch is given", where=where, expected="a global batch")
    values |= resolved(fields, dp)
    try:
        plan = Plan(**values)
        check_plan(plan, where=where)
        recipe, substituted = supported_precision(machine, plan.precision)
    except PlanError as error:
        raise PlanError(error.what, where=where, expected=error.expected, hint=error.hint) from None
    if substituted:
        raise PlanError(
            substituted.split(";")[0],
            where=where,
            expected="a precision of this chip",
            hint=f"the nearest is precision = {recipe!r}",
        )
    return Run(
        model=model,
        machine=machine,
        plan=plan,
        framework=found.framework,
        software=software.label,
        assumed=tuple(assumed),
        left=found.left,
    )


def _software_for(framework: str, machine: Machine) -> Software:
    """The release that a framework's file is for, where nothing is said: the framework's on its own chips."""
    name = _SOFTWARE[framework]
    if name is None or (framework == "megatron" and machine.chip.vendor.lower() != "nvidia"):
        return software_of(machine)
    if name in load_software() or name in known_stacks():
        found = named_software(name)
        assert found is not None, "a name gives an entry"
        return found
    # results have it, and no fit knows its effects apart
    options = {k: v for k, v in (stack_options(name) or {}).items() if k in CAPABILITIES}
    return Software(
        name=name, stack=UNKNOWN, label=name, families=(), vendor="", options=MappingProxyType(options)
    )  # fmt: skip
