"""From a published row to a machine, a model and a plan. What a row does not say is an assumption with a name."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import re
import tomllib
from typing import Any

from fullmesh.errors import CatalogError, PlanError, ResultsError, shown
from fullmesh.evidence.results import ResultRow, row_model
from fullmesh.machine import Machine, load_machine
from fullmesh.plan import Plan
from fullmesh.plan.layout import layout_by_work, parse_layout
from fullmesh.plan.plan import MODULES, check_plan
from fullmesh.workload import ModelSpec
from fullmesh.workload.parameters import layer_parameters

#: What is assumed where a row does not say what it recomputes.
NO_RECOMPUTE_SAID = "recompute not published, none assumed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A published row as the program understands it.

    ``assumptions`` names each value that the row leaves open and what was taken for it.
    """

    row: ResultRow
    machine: Machine
    model: ModelSpec
    plan: Plan
    assumptions: tuple[str, ...]


@functools.lru_cache(maxsize=2)
def _table(name: str) -> tuple[dict[str, Any], ...]:
    text = importlib.resources.files("fullmesh.data").joinpath(f"results/{name}.toml").read_text("utf-8")
    return tuple(tomllib.loads(text)[name.removesuffix("s")])


def row_case(row: ResultRow, *, alternative: bool = False) -> Case:
    """Map one published row.

    Parameters
    ----------
    alternative : bool
        Take the other bin of the chip where the source does not say which one it ran on.

    Raises
    ------
    ResultsError, PlanError, ModelError, CatalogError
        A core field is missing or cannot be understood; the message says which.
    """
    assumptions: list[str] = []
    model = row_model(row)
    if row.n_gpus is None:
        raise ResultsError("the number of devices is not published", where=row.id)
    if row.seq is None or row.gbs is None:
        missing = "sequence length" if row.seq is None else "global batch"
        raise ResultsError(f"the {missing} is not published", where=row.id)
    named = load_machine(row.machine) if row.machine else row_machine(row.gpu, alternative=alternative)
    machine = named.resized(row.n_gpus)
    stack, options = row_stack(row.framework, row.source, row.overlap_and_flags)
    fields: dict[str, Any] = dict(options)
    fields["stack"] = stack
    stages_by_work = fields.pop("layout", "") == "by-work"
    fields.update(_degrees(row, model, fields, assumptions))
    if stages_by_work and fields["pp"] > 1 and fields["vpp"] == 1:
        fields["layout"] = layout_by_work(*_block_work(model), fields["pp"])
    fields["precision"] = row_precision(row.precision, fields.get("precision", "bf16"), assumptions)
    fields.update(_recompute(row.recompute, model, fields["pp"], assumptions))
    fields.update(_flags(row.overlap_and_flags, fields, model))
    fields.update(_sharding(row, fields))
    if model.is_moe and "dispatcher" not in _flags(row.overlap_and_flags, fields, model):
        fields["dispatcher"] = _dispatcher(fields, machine, assumptions)
    if "lora" in row.phase:
        fields["trainable"] = "lora"
    elif row.phase not in ("pretrain", "sft"):
        assumptions.append(f"phase {row.phase!r}: training of all parameters")
    plan = Plan(**fields)
    check_plan(plan, where=row.id)
    return Case(row=row, machine=machine, model=model, plan=plan, assumptions=tuple(assumptions))


def _block_work(model: ModelSpec) -> tuple[list[float], float]:
    """Parameters that a token passes through, of every layer and of the head."""
    held = [layer_parameters(model, layer) for layer in model.layers]
    return [float(p.active) for p in held], float(model.vocab * model.hidden)


@functools.lru_cache(maxsize=64)
def row_machine(gpu: str, *, alternative: bool = False) -> Machine:
    """The machine that stands for a device name of the table."""
    for entry in _table("devices"):
        if re.search(entry["pattern"], gpu, re.IGNORECASE):
            return load_machine(entry["machine"], chip=entry.get("alternative") if alternative else None)
    try:
        return load_machine(gpu)
    except CatalogError:
        raise ResultsError(
            f"the device {shown(gpu)} is unknown",
            expected="a device of data/results/devices.toml, a chip or a machine of the catalog",
        ) from None


@functools.lru_cache(maxsize=256)
def row_stack(framework: str, source: str, flags: str = "") -> tuple[str, dict[str, Any]]:
    """Name and defaults of the software stack of a row."""
    for entry in _table("stacks"):
        match = re.search(entry["framework"], framework, re.IGNORECASE)
        if (
            match
            and re.search(entry["source"], source, re.IGNORECASE)
            and re.search(entry.get("flags", ""), flags, re.IGNORECASE)
        ):
            release = match.groupdict().get("release")
            if release is None:
                # the release may stand anywhere in the text
                found = re.search(r"2\d\.\d\d", framework)
                release = found.group(0) if found else "any"
            return entry["name"].format(release=release), dict(entry["options"])
    raise AssertionError("the last stack matches everything")


def stack_options(name: str) -> dict[str, Any] | None:
    """What a stack of the published results (``nemo-26.04``) does where a row says nothing; None for other names."""
    for entry in _table("stacks"):
        pattern = re.sub(r"\\\{\w+\\\}", r"[\\w.]+", re.escape(entry["name"]))
        if re.fullmatch(pattern, name):
            return dict(entry["options"])
    return None


def row_precision(text: str, default: str, assumptions: list[str]) -> str:
    """The recipe that a published precision means."""
    low = text.lower()
    if not low:
        assumptions.append(f"precision not published, {default} assumed")
        return default
    if "or fp4" in low:
        # not known: NVFP4 fits the times of these rows better than FP8, and was chosen for that
        assumptions.append("FP8 or FP4 published, NVFP4 assumed because it fits better")
        return "nvfp4"
    for pattern, recipe in (
        ("mxfp8", "mxfp8"),
        ("fp4", "nvfp4"),
        (r"fp8.*(128|block|sub-?channel|rowwise)", "fp8-block"),
        ("fp8", "fp8-block" if default == "fp8-block" else "fp8"),
        ("int8", "int8"),
        ("fp16", "fp16"),
        ("bf16", "bf16"),
    ):
        if re.search(pattern, low):
            return recipe
    raise ResultsError(f"the precision {text!r} is unknown")


def _degrees(
    row: ResultRow, model: ModelSpec, options: dict[str, Any], assumptions: list[str]
) -> dict[str, Any]:
    assert row.n_gpus is not None
    assert row.seq is not None
    assert row.gbs is not None
    if row.tp is None and row.pp is None and row.dp is None and row.fsdp is None:
        raise ResultsError("the parallel layout is not published", where=row.id)
    tp, cp, pp = row.tp or 1, row.cp or 1, row.pp or 1
    inner = tp * cp * pp
    if row.n_gpus % inner:
        raise PlanError(f"TP {tp} x CP {cp} x PP {pp} does not divide {row.n_gpus} devices", where=row.id)
    dp = row.n_gpus // inner
    if row.dp not in (None, dp):
        assumptions.append(f"data parallelism {dp} by arithmetic, {row.dp} printed")
    mbs = row.mbs
    if mbs is None:
        mbs = 1
        assumptions.append("micro-batch not published, 1 assumed")
    gbs = row.gbs
    if gbs % (mbs * dp):
        if gbs % dp == 0:
            assumptions.append(f"micro-batch {mbs} does not divide {gbs} / {dp}; {gbs // dp} used")
            mbs = min(mbs, gbs // dp)
            while gbs % (mbs * dp):
                mbs -= 1
        else:
            raise PlanError(f"global batch {gbs} does not divide over {dp} data-parallel ranks", where=row.id)
    out: dict[str, Any] = {
        "tp": tp, "cp": cp, "pp": pp, "dp": dp, "mbs": mbs, "gbs": gbs, "seq": row.seq,
    }  # fmt: skip
    out["vpp"], schedule = _chunks(row.vpp, model.num_layers, pp, assumptions)
    if schedule:
        out["schedule"] = schedule
    elif options.get("schedule") == "dualpipe" and pp == 1:
        out["schedule"] = "1f1b"
    if model.is_moe:
        ep = row.ep or 1
        etp = row.etp
        if etp is None:
            mindspeed = str(options["stack"]).startswith(("mindspeed", "mindformers"))
            etp = tp if (ep == 1 or mindspeed) and (tp * cp * dp) % (ep * tp) == 0 else 1
            assumptions.append(f"expert tensor parallelism not published, {etp} assumed")
        if (tp * cp * dp) % (ep * etp):
            raise PlanError(
                f"EP {ep} x ETP {etp} does not divide the {tp * cp * dp} ranks of a stage", where=row.id
            )
        out |= {"ep": ep, "etp": etp}
    layout = re.search(r"pp_layout=([EtmL|()*\d]+)", row.overlap_and_flags)
    if layout and pp > 1:
        text = layout.group(1)
        count = 0
        try:
            count = len(parse_layout(text))
        except PlanError:
            text = ""
        if text and count % pp == 0:
            out |= {"layout": text, "vpp": count // pp}
    return out


def _chunks(text: str, num_layers: int, pp: int, assumptions: list[str]) -> tuple[int, str]:
    """Model chunks per rank and schedule, from the many ways in which tables print them."""
    low = text.lower().strip()
    if not low or low in ("n/a", "none") or pp == 1:
        return 1, ""
    if "dualpipe" in low:
        return 1, "dualpipe"
    per_chunk = re.search(r"layers_per_chunk\s*=\s*([0-9]{1,9})", low)
    if per_chunk:
        return max(1, round(num_layers / (pp * int(per_chunk.group(1))))), ""
    number = re.match(r"([0-9]{1,9})", low)
    if number:
        # embedding and head may count as a layer each
        return max(1, min(int(number.group(1)), (num_layers + 2) // pp)), ""
    if ">1" in low:
        assumptions.append("more than one chunk, number not published: 2 assumed")
        return 2, ""
    raise ResultsError(f"the virtual stages {text!r} cannot be read")


def _recompute(text: str, model: ModelSpec, pp: int, assumptions: list[str]) -> dict[str, Any]:
    low = text.lower().strip()
    if not low:
        assumptions.append(NO_RECOMPUTE_SAID)
        return {}
    if low.startswith("none"):
        return {}
    listed = re.match(r"(sel|full):\[([0-9,\s]{1,2000})\]", low)
    per_stage = model.num_layers / pp
    if listed:
        share = min(1.0, sum(int(v) for v in re.findall("[0-9]{1,9}", listed.group(2))) / model.num_layers)
        kind = "full" if listed.group(1) == "full" else "selective"
        return {"recompute": kind, "recompute_fraction": share}
    block = re.search(r"block ([0-9]{1,9})", low)
    if block:
        return {"recompute": "full", "recompute_fraction": min(1.0, int(block.group(1)) / per_stage)}
    if low.startswith("full"):
        return {"recompute": "full"}
    if "selective" in low and "ac" in low.split(":")[0].split():
        # selective checkpointing of PyTorch: every second product is kept, the rest is done again
        return {"recompute": "full", "recompute_fraction": 0.5}
    modules = []
    for module in MODULES:
        if re.search(rf"(?<![a-z_]){module}(?![a-z_])", low):
            modules.append(module)
    if "rmsnorm" in low:
        modules.append("layernorm")
    if "up-projection" in low:
        modules.append("mla_up_proj")
    if low.startswith(("selective", "sel")) or modules:
        return {"recompute": "selective", "recompute_modules": tuple(modules)}
    raise ResultsError(f"the recompute setting {text!r} cannot be read")


def graph_setting(text: str) -> str:
    """What a row's flags say of CUDA graphs: ``full``, ``partial``, ``none``, or nothing."""
    low = text.lower()
    if (
        re.search(r"full_iter|full-iteration cuda graph|full cuda graph", low)
        and "cuda_graph=none" not in low
    ):
        return "full"
    if re.search(r"cuda_graph=transformer_engine:(?!none)|te cuda graph", low):
        return "partial"
    if re.search(r"cuda_graph=|no cuda graph|cuda graphs off", low):
        return "none"
    return ""


def _flags(text: str, options: dict[str, Any], model: ModelSpec) -> dict[str, Any]:
    """Overlap switches and kernels that a row names."""
    low = text.lower()
    out: dict[str, Any] = {}

    def has(pattern: str) -> bool:
        return re.search(pattern, low) is not None

    graph = graph_setting(text)
    if graph:
        out["cuda_graph"] = graph
    if has("hybridep"):
        out["dispatcher"] = "hybridep"
    elif has("deepep"):
        out["dispatcher"] = "deepep"
    if has(r"moe_a2a_overlap|overlap_moe_expert_parallel_comm=true|(?<!no )ep (all-to-all )?overlap"):
        out["ep_overlap"] = True
    if has(r"tp (comm|userbuffer)[a-z]* overlap|tp overlap|asynctp|tp comm|\bmc2\b|\bcoc\b"):
        out["tp_overlap"] = True
    elif has("vanilla tp"):
        out["tp_overlap"] = False
    if has(r"overlap_grad_reduce=false|grad-reduce overlap off|all comm overlap off"):
        out["grad_overlap"] = False
    elif has(r"overlap_grad_reduce=true|grad-reduce|grad/param overlap|\bog\b"):
        out["grad_overlap"] = True
    if has(r"overlap_param_gather=false|all comm overlap off"):
        out["param_overlap"] = False
    elif has(r"param-gather overlap|param_gather=true|grad/param overlap|\bop\b"):
        out["param_overlap"] = True
    if has(r"\bgg\b|grouped"):
        out["grouped_experts"] = True
    if has("all comm overlap off"):
        out |= {"tp_overlap": False, "ep_overlap": False}
    if has("sync pp comm"):
        out["p2p_overlap"] = False
    if has(r"fp8 param"):
        out["fp8_params"] = True
    if has("bf16 grad sync"):
        out["grad_bytes"] = 2
    if has("fp32 grad"):
        out["grad_bytes"] = 4
    if has("compile"):
        out["compiled"] = True
    if has(r"no sequence parallel"):
        out["sequence_parallel"] = False
    elif has(r"\bsp\b|sequence parallelism") or options["tp"] == 1:
        out["sequence_parallel"] = True
    if has("ulysses"):
        out["cp_kind"] = "ulysses"
    if has(r"\bdo\b") and options.get("zero") == 0:
        out["zero"] = 1
    if has("pure") and "fsdp" in low:
        out["grad_bytes"] = 2
    offload = re.search(r"cpu_offload_layers=([0-9]{1,9})", low)
    if offload:
        out["offload_activations"] = min(1.0, int(offload.group(1)) * options["pp"] / model.num_layers)
    share = re.search(r"optimizer cpu offload ([0-9]{1,9})%", low)
    if share:
        out["offload_optimizer"] = int(share.group(1)) / 100
    return out


def _dispatcher(options: dict[str, Any], machine: Machine, assumptions: list[str]) -> str:
    """How tokens reach their experts where a row does not say; DeepEP's kernels are not for whole racks."""
    usual = str(options.get("dispatcher", "alltoall"))
    if usual == "deepep" and machine.scale_up_devices > machine.devices_per_node:
        usual = "hybridep"
    assumptions.append(f"dispatcher of tokens not published, {usual} assumed")
    return usual


def _sharding(row: ResultRow, options: dict[str, Any]) -> dict[str, Any]:
    """ZeRO stage and shard group, from the optimizer and FSDP columns."""
    text = row.dist_opt.lower()
    flags = row.overlap_and_flags.lower()
    # context-parallel ranks hold shards too: only fewer shards than data-parallel ranks mean replicas
    shard = row.fsdp if row.fsdp and row.fsdp < options["dp"] else 0
    if "shard_grad_op" in flags:
        return {"zero": 2}
    if "megatron_fsdp" in flags:
        return {"zero": 3}
    sharded = row.fsdp is not None and row.fsdp >= 1
    if "zero-2" in text:
        return {"zero": 2}
    # a group that parameters are sharded over means that they are, whatever an optimizer column infers
    if "fsdp" in text or "zero-3" in text or (row.fsdp or 0) > 1:
        return {"zero": 3, "shard": shard * options["cp"]}
    if sharded and options.get("zero") == 3:
        return {"shard": shard * options["cp"]}
    if text.startswith("no"):
        return {"zero": 0}
    if text.startswith(("yes", "zero-1", "distributed")) and options.get("zero") == 0:
        return {"zero": 1}
    return {}
