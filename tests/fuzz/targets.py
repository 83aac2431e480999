"""What is fuzzed: every format, through the function or command that reads it, and the options of every command.

An input is good or refused: nothing but an error of ours, one of Click's or an exit may come out, within ten seconds.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from fullmesh.data import DATA_DIR
from fullmesh.errors import ECHO, FullmeshError
from fuzz.mutate import mutate_bytes, mutate_csv, mutate_json, mutate_toml, mutate_trace, mutate_word

SECONDS = 10.0
LONGEST_MESSAGE = 2_500
Run = Callable[[], Any]
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "deepseek-v3-cloudmatrix384.toml"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An input that ended in something else than an answer or a clean refusal."""

    target: str
    index: int
    what: str


class TooLongError(BaseException):
    """The time of one input is over; no `except Exception` of ours may take it."""


# --- the pieces ------------------------------------------------------------------------------------------------


def command(*arguments: str) -> str:
    """Run a command in this process and return what it prints."""
    from fullmesh.faces.cli.main import cli

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        cli.main(list(arguments), prog_name="fullmesh", standalone_mode=False)
    return out.getvalue()


def strict_json(text: str) -> None:
    """What ``--json`` prints is JSON: no NaN, no Infinity."""

    def constant(word: str) -> None:
        raise AssertionError(f"{word} in the output")

    json.loads(text, parse_constant=constant)


def _file(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@functools.cache
def _text(*parts: str) -> str:
    return DATA_DIR.joinpath(*parts).read_text(encoding="utf-8")


@functools.cache
def _json(*parts: str) -> Any:
    return json.loads(_text(*parts))


def _head(text: str, lines: int) -> str:
    return "\n".join(text.splitlines()[:lines]) + "\n"


# --- formats ---------------------------------------------------------------------------------------------------

MODELS = (
    "llama-3-8b",
    "deepseek-v3",
    "mixtral-8x7b",
    "gemma-3-12b",
    "gpt-oss-20b",
    "bloom-7b1",
    "glm-4.5-air",
)
SCENARIO = """[model]
name = "llama-3-8b"
[machine]
name = "h200"
chips = 16
[plan]
tp = 2
pp = 2
mbs = 1
gbs = 32
seq = 4096
recompute = "none"
precision = "bf16"
"""


def config(rng: random.Random, folder: Path) -> Run:
    from fullmesh.workload.readers.huggingface import load_model

    path = _file(folder, "config.json", mutate_json(_json("models", f"{rng.choice(MODELS)}.json"), rng))
    return lambda: load_model(path)


def scenario(rng: random.Random, folder: Path) -> Run:
    seed = SCENARIO if rng.random() < 0.8 else EXAMPLE.read_text(encoding="utf-8")
    path = _file(folder, "s.toml", mutate_toml(seed, rng))
    more = rng.choice(
        ([], ["--trace", str(folder / "t.json.gz")], ["--engine", "event"], ["--jitter", "0.05"])
    )
    return lambda: strict_json(command("simulate", str(path), "--json", *more))


def machine(rng: random.Random, folder: Path) -> Run:
    name = rng.choice(("dgx-h200", "cloudmatrix384", "gb200-nvl72", "atlas-800t-a2"))
    path = _file(folder, "m.toml", mutate_toml(_text("machines", f"{name}.toml"), rng))
    if rng.random() < 0.1:
        return lambda: strict_json(
            command(
                "plan",
                "llama-3-8b",
                "--on",
                str(path),
                "--chips",
                "8",
                "--batch",
                "8",
                "--top",
                "1",
                "--json",
            )
        )
    return lambda: strict_json(command("catalog", "show", str(path), "--json"))


CABLES = """id = "ring"
source = "test"
[[device]]
name = "a"
[[device]]
name = "b"
[[switch]]
name = "s"
[[link]]
a = "a"
b = "s"
bandwidth = "10 GB/s"
latency = "1 us"
[[link]]
a = "b"
b = "s"
bandwidth = "20 GB/s"
"""


def topology(rng: random.Random, folder: Path) -> Run:
    name = rng.choice(sorted(p.name for p in (DATA_DIR / "machines").glob("*.toml")))
    text = CABLES if rng.random() < 0.2 else _text("machines", name)
    path = _file(folder, "t.toml", mutate_toml(text, rng))
    size = [] if text == CABLES else ["--devices", "64"]
    return lambda: strict_json(command("fabric", str(path), *size, "--json"))


def _kernels() -> list[dict[str, Any]]:
    names = (
        "nvjet_tst_256x128",
        "ncclDevKernel_SendRecv(x)",
        "void flash_fwd_kernel<T>",
        "elementwise_kernel<4>",
    )
    return [
        {"ph": "X", "cat": "kernel", "name": n, "pid": 0, "tid": 7, "ts": 10.0 + 50 * i, "dur": 40,
         "args": {"stream": 7, "Collective name": "all_to_allv" if "nccl" in n else ""}}
        for i, n in enumerate(names)
    ]  # fmt: skip


def kineto(rng: random.Random, folder: Path) -> Run:
    from fullmesh.timeline.trace.measured import profile_events, read_profile

    mark = {
        "ph": "X",
        "cat": "user_annotation",
        "name": "ProfilerStep#3",
        "pid": 9,
        "tid": 1,
        "ts": 0.0,
        "dur": 900.0,
    }
    trace = {"schemaVersion": 1, "traceEvents": [mark, *_kernels()], "deviceProperties": [{"id": 0}]}
    path = _file(folder, "k.json", mutate_trace(trace, rng))
    return lambda: profile_events(read_profile(path))


def msprof(rng: random.Random, folder: Path) -> Run:
    from fullmesh.timeline.trace.measured import profile_events, read_profile

    trace = [
        {"ph": "M", "pid": 4, "name": "process_name", "args": {"name": "Ascend Hardware"}},
        {"ph": "X", "name": "ProfilerStep#3", "pid": 1, "tid": 1, "ts": "1000.000", "dur": 50_000.0},
        {
            "ph": "X",
            "name": "MatMulV3",
            "pid": 4,
            "tid": 3,
            "ts": "1200.25",
            "dur": 20_000.0,
            "args": {"Stream Id": 33},
        },
        {
            "ph": "X",
            "name": "hcom_alltoallv_",
            "pid": 4,
            "tid": 3,
            "ts": "22000",
            "dur": "300",
            "args": {"Stream Id": 4},
        },
    ]
    path = _file(folder, "trace_view.json", mutate_trace(trace, rng))
    return lambda: profile_events(read_profile(path))


def results(rng: random.Random, folder: Path) -> Run:
    from fullmesh.evidence.mapping import row_case
    from fullmesh.evidence.results import read_results, row_model

    path = _file(folder, "r.csv", mutate_csv(_head(_text("results", "training_results.csv"), 12), rng))

    def run() -> None:
        for row in read_results(path):
            # one row that cannot be built does not end the table
            with contextlib.suppress(FullmeshError):
                row_model(row)
            with contextlib.suppress(FullmeshError):
                row_case(row)

    return run


# small settings of the table, every kind of machine among them: a search of one takes some 0.2 s
SMALL = (
    "NV350", "NV073", "NV354", "NV838", "NV632", "NV683", "NV069", "NV008", "BX0002", "NV252", "NV341",
    "NV100", "MF001", "NV907",
)  # fmt: skip


@functools.cache
def _small_rows() -> tuple[str, tuple[str, ...]]:
    """Header and rows of the table of results, as lines."""
    head, *lines = _text("results", "training_results.csv").splitlines()
    return head, tuple(line for line in lines if line.split(",")[0] in SMALL)


def _results_file(rng: random.Random, folder: Path, most: int) -> Path:
    head, lines = _small_rows()
    text = "\n".join([head, *rng.sample(lines, rng.randint(1, most))]) + "\n"
    return _file(folder, "r.csv", mutate_csv(text, rng))


def validate_results(rng: random.Random, folder: Path) -> Run:
    path, out = _results_file(rng, folder, 5), folder / "out.json"
    to = str(out) if rng.random() < 0.5 else "-"

    def run() -> None:
        text = command(
            "validate",
            "--results",
            str(path),
            "--worst",
            "3",
            *(("--json", to) if rng.random() < 0.8 else ()),
        )
        strict_json(out.read_text("utf-8") if out.exists() else text if text.startswith("{") else "{}")

    return run


def validate_decisions(rng: random.Random, folder: Path) -> Run:
    path = _results_file(rng, folder, 2)
    to = ("--json", "-") if rng.random() < 0.5 else ()

    def run() -> None:
        text = command("validate", "--results", str(path), "--decisions", "--worst", "2", *to)
        if to:
            strict_json(text)

    return run


def calibrate_published(rng: random.Random, folder: Path) -> Run:
    """Everything that a fit does to a table before the first number is fitted."""
    from fullmesh.evidence.cases import case_table
    from fullmesh.evidence.published import (
        configuration,
        folds,
        outliers,
        published_memory_bytes,
        published_step_s,
    )
    from fullmesh.evidence.results import read_results
    from fullmesh.outcomes.support import seen_pairs
    from fullmesh.plan import Plans

    path = _results_file(rng, folder, 8)

    def run() -> None:
        rows = read_results(path)
        outliers(rows)
        folds(rows)
        used = [r for r in rows if published_step_s(r) or published_memory_bytes(r)[1]]
        for row in rows:
            configuration(row)
        table, _ = case_table(used)
        for case in table.cases if table else ():
            seen_pairs(case.model, case.machine, Plans.of([case.plan]))

    return run


RUNS = """framework,machine,n_gpus,model,seq,precision,TP,PP,EP,mbs,gbs,recompute,step_s
our own fork,h200,64,llama-3-70b,8192,BF16,4,4,,1,256,none,34.1
our own fork,h200,64,llama-3-8b,8192,BF16,1,1,,1,256,none,4.2
our own fork,cloudmatrix384,64,deepseek-v2-lite,4096,BF16,1,1,8,1,256,none,3.3
"""
CAPABILITIES = """label = "our fork of Megatron-Core"
stack = "nemo-26.06"
source = "launch scripts of November"
[options]
kernels = "transformer-engine"
dispatcher = "alltoall"
grad_bytes = 4
[expert_options]
cuda_graph = "partial"
"""


def calibrate_results(rng: random.Random, folder: Path) -> Run:
    path, out = _file(folder, "runs.csv", mutate_csv(RUNS, rng)), folder / "mine.json"

    def run() -> None:
        command("calibrate", "results", str(path), "--out", str(out))
        strict_json(out.read_text("utf-8"))

    return run


def _small_plan(*more: str) -> Run:
    base = ("plan", "llama-3-8b", "--on", "h200", "--chips", "8", "--batch", "8", "--top", "1", "--json")
    return lambda: strict_json(command(*base, *more))


@functools.cache
def _personal() -> Any:
    """A good personal profile, of two runs."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        runs, out = Path(folder) / "runs.csv", Path(folder) / "mine.json"
        runs.write_text("\n".join(RUNS.splitlines()[:3]) + "\n", encoding="utf-8")
        command("calibrate", "results", str(runs), "--out", str(out))
        return json.loads(out.read_text("utf-8"))


def personal(rng: random.Random, folder: Path) -> Run:
    return _small_plan("--profile", str(_file(folder, "p.json", mutate_json(_personal(), rng))))


def software(rng: random.Random, folder: Path) -> Run:
    return _small_plan("--software", str(_file(folder, "s.toml", mutate_toml(CAPABILITIES, rng))))


def prices(rng: random.Random, folder: Path) -> Run:
    from fullmesh.catalog.prices import load_prices

    newest = max(p.name for p in (DATA_DIR / "prices").glob("*.csv"))
    path = _file(folder, "p.csv", mutate_csv(_text("prices", newest), rng))
    return lambda: load_prices(path)


FAULT_LOG = "node,start,end,cause,detail\n" + "".join(
    f"n{i % 7},{1.5 * i},{1.5 * i + 0.3},{('GPU', 'NIC', 'cable', 'Change')[i % 4]},ECC\n" for i in range(30)
)
FAULT_EVENTS = [
    {
        "node_id": f"n{i % 5}",
        "event_time": 1.0 + i // 2 * 1.3 + i % 2 * 0.4,
        "event_type": ("fault_start", "fault_end")[i % 2],
        "fault_type": {"Level": "Hardware Failure", "Class": "GPU", "Desc": "xid"},
    }
    for i in range(20)
]


def faults(rng: random.Random, folder: Path) -> Run:
    kind = rng.choice(("table", "log", "events"))
    if kind == "table":
        path = _file(folder, "f.csv", mutate_csv(_text("run", "faults.csv"), rng))
    elif kind == "log":
        path = _file(folder, "f.csv", mutate_csv(FAULT_LOG, rng))
    else:
        path = _file(folder, "f.json", mutate_json(FAULT_EVENTS, rng))
    small = (
        "llama-3-8b",
        "--on",
        "h100",
        "--chips",
        "16",
        "--batch",
        "16",
        "--tokens",
        "100B",
        "--runs",
        "10",
    )
    return lambda: strict_json(command("goodput", *small, "--faults", str(path), "--json"))


def facts(rng: random.Random, folder: Path) -> Run:
    from fullmesh.catalog.facts import FactBook, read_facts

    name = rng.choice(sorted(p.name for p in (DATA_DIR / "facts").glob("*.csv")))
    path = _file(folder, "f.csv", mutate_csv(_head(_text("facts", name), 30), rng))
    return lambda: FactBook(read_facts(path))


def _lines(head: str, rows: Iterable[str]) -> str:
    return f"# source\n{head},latency_us\n" + "".join(f"{row}\n" for row in rows)


TABLES = {
    "gemm_h200_sxm.csv": _lines(
        "gemm_dtype,m,n,k",
        (
            f"bfloat16,{m},{n},{k},{5 + m * n * k / 3e8:.3f}"
            for m in (64, 512) for n in (1024, 2048, 4096) for k in (1024, 8192)
        ),
    ),
    "attn_ctx_h200_sxm.csv": _lines(
        "attn_dtype,batch_size,isl,num_heads,num_key_value_heads,head_dim,kernel_source",
        (
            f"bfloat16,{b},{s},{h},8,128,fa,{9 + b * h * s * s / 3e6:.3f}"
            for b in (1, 4) for s in (512, 1024, 2048) for h in (8, 32)
        ),
    ),
    "moe_h200_sxm.csv": _lines(
        "moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_ep_size,distribution",
        (
            f"bfloat16,{t},4096,1024,2,{e},1,{d},{20 + t * e / 30:.3f}"
            for t in (64, 512, 4096) for e in (8, 64) for d in ("balanced", "power_law_1.2")
        ),
    ),
}  # fmt: skip


def operator_tables(rng: random.Random, folder: Path) -> Run:
    from fullmesh.calibrate.operators.tables import read_table

    name = rng.choice(sorted(TABLES))
    path = _file(folder, name, mutate_csv(TABLES[name], rng))
    return lambda: read_table(path)


def operator_fit(rng: random.Random, folder: Path) -> Run:
    tables = folder / "tables"
    tables.mkdir()
    for name, text in TABLES.items():
        (tables / name).write_bytes(mutate_csv(text, rng) if rng.random() < 0.4 else text.encode())
    return lambda: command("calibrate", "operators", str(tables), "--out", str(folder / "out.json"))


POINTS = {
    "nccl_intra_node.csv": "system,nccl,op_name,num_gpus,bytes,latency_us\nh200_sxm,2.29.2,alltoall,8,1024,8.96\n"
    "h200_sxm,2.29.2,all_reduce,8,2048,9.96\n",
    "deepep_normal_h100.csv": "node_num,hidden_size,num_token,num_topk,num_experts,dispatch_sms,combine_sms,"
    "dispatch_transmit_us,dispatch_notify_us,combine_transmit_us,combine_notify_us\n"
    "1,7168,4096,8,256,20,20,300,20,500,20\n",
    "deepep_low_latency_h100.csv": "node_num,hidden_size,num_token,num_topk,num_experts,dispatch_avg_t_us,"
    "combine_avg_t_us\n1,7168,128,8,256,77,114\n",
    "nvl72_moe_alltoall.csv": "op_name,kernel_source,moe_dtype,num_tokens,hidden_size,topk,num_experts,"
    "moe_ep_size,latency\nalltoall_dispatch,NVLinkTwoSided,bfloat16,128,7168,8,256,8,0.1\n"
    "alltoall_prepare,NVLinkTwoSided,bfloat16,128,7168,8,256,8,0.01\n",
}  # fmt: skip


def collective_points(rng: random.Random, folder: Path) -> Run:
    from fullmesh.calibrate.collectives.points import read_curves

    tables = folder / "points"
    tables.mkdir()
    name = rng.choice(sorted(POINTS))
    (tables / name).write_bytes(mutate_csv(POINTS[name], rng))
    return lambda: read_curves(tables)


def calibrate_collectives(rng: random.Random, folder: Path) -> Run:
    """The command up to the fit itself: all tables are there, some are damaged; the curves of a few are fitted."""
    from fullmesh.calibrate.collectives.curves import fit_times, gather
    from fullmesh.calibrate.collectives.points import read_curves

    tables = folder / "tables"
    tables.mkdir()
    for name, text in POINTS.items():
        (tables / name).write_bytes(mutate_csv(text, rng) if rng.random() < 0.5 else text.encode())
    fitted = rng.random() < 0.05

    def run() -> None:
        read_curves(tables)
        points = gather(tables)
        if fitted:
            fit_times(points)

    return run


# --- launch files ------------------------------------------------------------------------------------------------

LAUNCH_SCRIPT = (Path(__file__).resolve().parents[2] / "docs" / "examples" / "llama-3-8b.sh").read_text(
    "utf-8"
)
LAUNCHED: dict[str, Any] = {
    "dp": 2, "tp": 2, "pp": 2, "vpp": 2, "mbs": 1, "gbs": 16, "seq": 4096, "recompute": "full",
    "recompute_fraction": 0.5,
}  # fmt: skip


@functools.cache
def _launch_files(framework: str) -> dict[str, str]:
    """A folder as it is written, to be damaged."""
    from fullmesh.plan import Plan
    from fullmesh.study.launch.folder import as_written
    from fullmesh.workload.readers.huggingface import load_model

    fields = dict(LAUNCHED)
    if framework == "torchtitan":
        fields["zero"] = 3
    if framework == "deepspeed":
        fields |= {"tp": 1, "pp": 1, "vpp": 1, "recompute_fraction": 1.0}
    return as_written(Plan(**fields), load_model("llama-3-8b"), framework)[0].files


def mutate_lines(text: str, rng: random.Random) -> bytes:
    """Lines left out, doubled or swapped, words replaced, bytes damaged."""
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif kind == 2:
            lines[at] = mutate_word(lines[at], rng)
        else:
            words = lines[at].split(" ")
            place = rng.randrange(len(words))
            words[place] = mutate_word(words[place], rng) if words[place] else rng.choice("[]{}&*'\"#:|")
            lines[at] = " ".join(words)
    data = ("\n".join(lines) + "\n").encode("utf-8", errors="surrogatepass")
    return mutate_bytes(data, rng) if rng.random() < 0.2 else data


def _checked(path: Path, *more: str) -> Run:
    return lambda: strict_json(command("check", str(path), "--on", "h200", "--chips", "8", *more, "--json"))


def launch_script(rng: random.Random, folder: Path) -> Run:
    return _checked(_file(folder, "train.sh", mutate_lines(LAUNCH_SCRIPT, rng)), "--top", "0")


def launch_yaml(rng: random.Random, folder: Path) -> Run:
    framework, name = rng.choice((("megatron-bridge", "config.yaml"), ("mindformers", "train.yaml")))
    text = _launch_files(framework)[name]
    return _checked(_file(folder, name, mutate_lines(text, rng)), "--top", "0")


def launch_toml(rng: random.Random, folder: Path) -> Run:
    files = _launch_files("torchtitan")
    damaged = rng.choice(("train.toml", "model.toml"))
    for name in ("train.toml", "model.toml"):
        _file(folder, name, mutate_toml(files[name], rng) if name == damaged else files[name].encode())
    return _checked(folder / "train.toml", "--top", "0")


def launch_json(rng: random.Random, folder: Path) -> Run:
    files = _launch_files("deepspeed")
    damaged = rng.choice(("ds_config.json", "config.json", "run.json"))
    for name in ("ds_config.json", "config.json", "run.json"):
        _file(
            folder,
            name,
            mutate_json(json.loads(files[name]), rng) if name == damaged else files[name].encode(),
        )
    return _checked(folder / "ds_config.json", "--top", "0")


RUN_LOG = "".join(
    f" iteration {i}/ 9 | elapsed time per iteration (ms): {9000 + i} | lr: 1E-4\n" for i in range(9)
)
ASCEND_TABLES = {
    "step_trace_time.csv": "Step,Computing,Communication(Not Overlapped),Free\n3,8000000.0,1500000.0,500000.0\n",
    "kernel_details.csv": "Step Id,Name,Type,Duration(us)\n3,MatMulV3_1,MatMulV3,4000000\n3,hcom_allReduce_,hcom,9\n",
    "op_statistic.csv": "OP Type,Total Time(us)\nMatMulV3,8200000\nFlashAttentionScore,4000000\n",
}


def run_log(rng: random.Random, folder: Path) -> Run:
    log = _file(folder, "run.log", mutate_lines(RUN_LOG, rng))
    script = _file(folder, "train.sh", LAUNCH_SCRIPT.encode())
    return _checked(script, "--log", str(log), "--top", "0")


def ascend_tables(rng: random.Random, folder: Path) -> Run:
    from fullmesh.study.check.measured import read_measured_profile

    for name, text in ASCEND_TABLES.items():
        if rng.random() < 0.8:
            _file(folder, name, mutate_csv(text, rng) if rng.random() < 0.7 else text.encode())
    return lambda: read_measured_profile(folder)


# --- options ---------------------------------------------------------------------------------------------------

# good values by option; an option that is not here takes any word
GOOD: dict[str, tuple[str, ...]] = {
    "--on": ("h200", "cloudmatrix384,h200"), "--chips": ("8", "16,16"), "--batch": ("16",), "--seq": ("4096",),
    "--tokens": ("1T", "300B"), "--precision": ("bf16", "fp8"), "--top": ("2",),
    "--straggler": ("rank=3:1.2", "link=1-2:2"),
    "--jitter": ("0.05", "lognormal:0.05:7"), "--devices": ("16",), "--scale": ("2",),
    "--fail": ("links=1%", "link=1:0.5"),
    "--queue-pairs": ("2",), "--seed": ("1",), "--bytes": ("1 GB",), "--kinds": ("all_reduce",),
    "--sizes": ("1 MiB,1 GiB",),
    "--groups": ("4", "2@2"), "--algorithm": ("ring",), "--placements": ("tp=4,dp=4",), "--oversubscription": ("2",),
    "--jobs": ("0-7,8-15",), "--experts": ("ranks=8,experts=16,top=2,tokens=64,hidden=128,imbalance=0.5,groups=2/4",),
    "--item": ("h200",), "--parameter": ("power",), "--source": ("nvidia",), "--worst": ("3",), "--device": ("cpu",),
    "--date": ("2026-01-01",), "--units": ("2",), "--policy": ("all", "memory,shrink"), "--spares": ("auto", "2", "5%"),
    "--power-cap": ("500W",), "--site": ("5MW",), "--pue": ("1.3", "1.1,1.1,1.2,1.2,1.3,1.3,1.4,1.4,1.3,1.2,1.1,1.1"),
    "--grid": ("400",), "--power-price": ("0.1",), "--assume": ("detection=2 min", "asynchronous=0"), "--runs": ("50",),
    "--engine": ("maxplus", "event", "contention", "fabric", "local"), "--run": ("1T",),
    "--step-time": ("9s", "800ms"), "--tokens-per-s": ("80000",), "--model": ("llama-3-8b",),
    "--fault-nodes": ("40",), "--nodes": ("40",), "--days": ("30",),
}  # fmt: skip
BASE: dict[str, tuple[str, ...]] = {
    "plan": ("llama-3-8b", "--on", "h200", "--chips", "8", "--batch", "8", "--top", "1"),
    "compare": ("llama-3-8b", "--on", "h200", "--chips", "8", "--batch", "8"),
    "goodput": (
        "llama-3-8b",
        "--on",
        "h100",
        "--chips",
        "16",
        "--batch",
        "16",
        "--tokens",
        "100B",
        "--runs",
        "20",
    ),
    "sweep": ("GRID", "--out", "ROWS", "--jobs", "1"),
    "calibrate faults": ("LOG", "--on", "h100", "--nodes", "40", "--out", "TABLE"),
    "simulate": ("SCENARIO",),
    "check": ("SCENARIO", "--top", "1"),
    "fabric": ("dgx-h200", "--devices", "16"),
    "catalog": (),
    "catalog show": ("h200",),
    "catalog model": ("llama-3-8b",),
    "catalog models": (),
    "catalog faults": (),
    "catalog inputs": (),
    "validate": ("--results", "RESULTS"),
    "calibrate collectives": ("NOWHERE", "--out", "OUT"),
    "calibrate operators": ("NOWHERE", "--out", "OUT"),
    "doctor": (),
}
# these measure the machine at hand, look for a cluster, start processes, or score or fit for long
LEFT_OUT = {
    "--ray-address",
    "--jobs",
    "--here",
    "--package",
    "--help",
    "--collectives",
    "--decisions",
    "--operators",
    "--tables",
}


GRID = """[grid]
model = "llama-3-8b"
machine = ["h200", "gb200-nvl72"]
chips = [8, 12]
batch = [8, "64k tokens"]
seq = "4k"
precision = ["bf16"]
software = "default"
objective = "time"
offload = false
[[case]]
model = "llama-3-8b"
machine = "h200"
chips = 16
batch = 16
"""


def _swept(path: Path, out: Path) -> None:
    """A sweep in this process, its JSON and its rows looked at."""
    # one job is done in this process
    os.environ["OMP_NUM_THREADS"] = "1"
    text = command("sweep", str(path), "--out", str(out), "--jobs", "1", "--json")
    strict_json(text)
    assert "internal error" not in text
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["key"] for row in rows}) == len(rows) == json.loads(text)["points"]


def sweep(rng: random.Random, folder: Path) -> Run:
    path = _file(folder, "grid.toml", mutate_toml(GRID, rng))
    return lambda: _swept(path, folder / "rows.csv")


@functools.cache
def _journal() -> bytes:
    """A good journal of sizes that no h200 has, which take no search."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = _file(Path(folder), "grid.toml", JOURNALED.encode())
        with contextlib.suppress(SystemExit):
            _swept(path, Path(folder) / "rows.csv")
        return (Path(folder) / "rows.csv.journal").read_bytes()


JOURNALED = '[grid]\nmodel = "llama-3-8b"\nmachine = "h200"\nchips = [9, 10, 11, 12, 13]\n'


def sweep_journal(rng: random.Random, folder: Path) -> Run:
    path, out = _file(folder, "grid.toml", JOURNALED.encode()), folder / "rows.csv"
    head, *rows = _journal().splitlines(keepends=True)
    if rng.random() < 0.3:
        data = mutate_bytes(_journal(), rng)
    else:
        at = rng.randrange(len(rows))
        rows[at] = mutate_json(json.loads(rows[at]), rng) + b"\n"
        data = head + b"".join(rows)
    _file(folder, "rows.csv.journal", data)
    return lambda: _swept(path, out)


def options(rng: random.Random, folder: Path) -> Run:
    from fullmesh.faces.cli.main import cli
    from fullmesh.faces.cli.options import OutputFile, OutputFolder

    name = rng.choice(sorted(BASE))
    found: click.Command | None = cli
    for word in name.split():
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), word)
    assert found is not None
    given = {
        "SCENARIO": lambda: _file(folder, "s.toml", SCENARIO.encode()),
        "RESULTS": lambda: _file(
            folder, "r.csv", _head(_text("results", "training_results.csv"), 4).encode()
        ),
        "NOWHERE": lambda: folder / "nowhere",
        "OUT": lambda: folder / "profile.json",
        "LOG": lambda: _file(folder, "log.csv", FAULT_LOG.encode()),
        "TABLE": lambda: folder / "rates.csv",
        "GRID": lambda: _file(folder, "grid.toml", JOURNALED.encode()),
        "ROWS": lambda: folder / "rows.csv",
    }
    arguments = [str(given[a]()) if a in given else a for a in BASE[name]]
    if arguments and rng.random() < 0.1:
        arguments[0] = mutate_word(arguments[0], rng)
    known = [p for p in found.params if isinstance(p, click.Option) and p.opts[0] not in LEFT_OUT]
    for option in rng.sample(known, min(len(known), rng.choice((1, 1, 2, 3)))):
        arguments.append(option.opts[0])
        if option.is_flag:
            continue
        good = GOOD.get(option.opts[0]) or getattr(option.type, "choices", None) or ("x",)
        word = rng.choice(list(good))
        if isinstance(option.type, OutputFile | OutputFolder):
            word = str(folder / (_plain(mutate_word("out.json", rng)) or "out"))
        elif rng.random() < 0.7:
            word = mutate_word(word, rng)
        arguments.append(word)
    if rng.random() < 0.1:
        arguments.insert(rng.randrange(len(arguments) + 1), mutate_word("--chips", rng))
    if rng.random() < 0.5 and "--json" not in arguments and "--csv" not in arguments:
        arguments.append("--json")

    def run() -> None:
        text = command(*name.split(), *arguments)
        if text.startswith("{"):
            strict_json(text)

    return run


def _plain(word: str) -> str:
    """A file name that stays in its folder."""
    return "".join(c for c in word if c not in "/\\\0")[:400].strip(".")


# targets of which each input takes seconds: this share of the number that is asked for
SHARES = {"operator-fit": 0.05}
TARGETS: dict[str, Callable[[random.Random, Path], Run]] = {
    "config": config,
    "scenario": scenario,
    "machine": machine,
    "topology": topology,
    "kineto": kineto,
    "msprof": msprof,
    "results": results,
    "validate-results": validate_results,
    "validate-decisions": validate_decisions,
    "calibrate-published": calibrate_published,
    "calibrate-results": calibrate_results,
    "personal-profile": personal,
    "software": software,
    "prices": prices,
    "facts": facts,
    "faults": faults,
    "operator-tables": operator_tables,
    "operator-fit": operator_fit,
    "collective-points": collective_points,
    "calibrate-collectives": calibrate_collectives,
    "launch-script": launch_script,
    "launch-yaml": launch_yaml,
    "launch-toml": launch_toml,
    "launch-json": launch_json,
    "run-log": run_log,
    "ascend-tables": ascend_tables,
    "sweep": sweep,
    "sweep-journal": sweep_journal,
    "options": options,
}


def warm(target: str, folder: Path) -> None:
    """Compile what a target runs, which takes longer than an input may."""
    path = _file(folder, "warm.toml", SCENARIO.encode())
    if target in ("scenario", "options"):
        for more in (
            (),
            ("--engine", "event"),
            ("--engine", "contention"),
            ("--engine", "fabric"),
            ("--jitter", "0.05"),
        ):
            command("simulate", str(path), "--json", *more)
    if target in ("topology", "options"):
        for more in (
            (),
            ("--collectives",),
            ("--failures",),
            ("--policy", "ecmp"),
            ("--load", "--jobs", "0-7,8-15"),
        ):
            command("fabric", "dgx-h200", "--devices", "16", "--json", *more)
    path.unlink()


# --- one input -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def over(*_: Any) -> None:
        raise TooLongError

    # of the processor: other programs on the machine make no input slow, and what sleeps is ended from outside
    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def attempt(
    target: str, seed: int, index: int, folder: Path, *, seconds: float = SECONDS
) -> tuple[str, Finding | None]:
    """Run one input; what came of it (``answer`` or ``refused``), and a finding if it was neither.

    Parameters
    ----------
    folder : Path
        Empty; the input and every output lie in it.
    """
    rng = random.Random(f"{seed} {target} {index}")
    run = TARGETS[target](rng, folder)
    began = time.process_time()

    def finding(what: str) -> tuple[str, Finding]:
        return "finding", Finding(target=target, index=index, what=what)

    try:
        with _alarm(seconds), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            run()
    except FullmeshError as error:
        text = error.render()
        if len(text) > LONGEST_MESSAGE or "hint:" not in text:
            return finding(f"a message of {len(text)} characters: {text[:300]}")
        if any(len(word) > ECHO + 100 for word in text.split()):
            return finding(f"a message echoes more than {ECHO} characters: {text[:300]}")
        return "refused", None
    except (click.ClickException, click.exceptions.Exit):
        return "refused", None
    except SystemExit:
        return "answer", None
    except TooLongError:
        return finding(f"not done after {seconds:.0f} s")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        last = traceback.extract_tb(sys.exc_info()[2])[-1]
        return finding(f"{type(error).__name__}: {str(error)[:200]} ({last.filename}:{last.lineno})")
    if time.process_time() - began > seconds:
        return finding(f"took {time.process_time() - began:.1f} s")
    return "answer", None
