"""Write the golden numbers: step time and peak memory of a few plans on different machines.

A change of the model moves them, and then says why; a change that should move nothing must leave them as they are.

    python scripts/golden.py            write tests/golden/estimates.json again
    python scripts/golden.py --compare  say what moved since it was written, and write nothing
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import fullmesh
from fullmesh.files import write_json
from fullmesh.machine import load_machine
from fullmesh.outcomes.estimate import Estimate, estimate
from fullmesh.plan import Plan
from fullmesh.workload.readers.huggingface import load_model

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "golden" / "estimates.json"

# name, model, machine, devices, plan: dense and sparse models, hybrids, every vendor and generation
CASES: tuple[tuple[str, str, str, int, Plan], ...] = (
    (
        "Llama 3 8B on H200, data parallel",
        "llama-3-8b",
        "h200",
        8,
        Plan(dp=8, gbs=128, seq=8192, stack="nemo-26.04"),
    ),
    (
        "Llama 3 70B on H100 in FP8, interleaved",
        "llama-3-70b",
        "h100",
        64,
        Plan(tp=4, pp=4, vpp=5, dp=4, gbs=128, seq=8192, precision="fp8", grad_bytes=2, stack="nemo-26.04"),
    ),
    (
        "GPT-3 175B on A100, full recompute",
        "gpt3-175b",
        "dgx-a100",
        512,
        Plan(tp=8, pp=8, dp=8, gbs=512, seq=2048, recompute="full", zero=0, flash_attention=False),
    ),
    (
        "DeepSeek-V3 on GB200 in MXFP8, experts in the rack",
        "deepseek-v3",
        "gb200-nvl72",
        256,
        Plan(
            pp=4, vpp=4, dp=64, ep=64, gbs=4096, precision="mxfp8", dispatcher="hybridep", cuda_graph="full",
            recompute="selective", recompute_modules=("mla_up_proj",), grad_bytes=2, stack="nemo-26.04",
        ),
    ),
    (
        "Qwen3 30B-A3B on B200, parameters sharded",
        "qwen3-30b-a3b",
        "b200",
        32,
        Plan(dp=32, ep=8, gbs=256, zero=3, precision="fp8", recompute="full", compiled=False),
    ),
    (
        "Nemotron-H 8B on H100, long sequences",
        "nemotron-h-8b",
        "h100",
        32,
        Plan(tp=2, cp=4, dp=4, gbs=32, seq=32768, recompute="selective"),
    ),
    (
        "Pangu Ultra 135B on Ascend 910B",
        "pangu-ultra-135b",
        "atlas-900-a2-podc",
        512,
        Plan(tp=8, pp=8, vpp=4, dp=8, gbs=512, recompute="full", stack="mindspeed-2026"),
    ),
    (
        "DeepSeek-V3 on CloudMatrix 384, zero-bubble",
        "deepseek-v3",
        "cloudmatrix384",
        768,
        Plan(tp=1, pp=16, dp=48, ep=16, gbs=3840, recompute="full", schedule="zero-bubble", stack="mindspeed-2026"),
    ),
)  # fmt: skip


def changed_fields(plan: Plan) -> dict[str, Any]:
    """The fields of a plan that differ from the default plan."""
    plain = Plan()
    names = [f.name for f in dataclasses.fields(Plan)]
    return {n: getattr(plan, n) for n in names if getattr(plan, n) != getattr(plain, n)}


def records() -> list[dict[str, Any]]:
    """Every case with its figures."""
    out = []
    for name, model, machine, devices, plan in CASES:
        found = estimate(load_model(model), load_machine(machine, num_devices=devices), plan)
        if not isinstance(found, Estimate):
            raise SystemExit(f"{name}: {found}")
        out.append(
            {
                "name": name,
                "model": model,
                "machine": machine,
                "num_devices": devices,
                "plan": changed_fields(plan),
                "step_s": found.step_s,
                "memory_bytes": found.memory_bytes,
            }
        )
    return out


def passport() -> dict[str, str]:
    """Where, when and by what the figures were made."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = " and changes on top" if git("status", "--porcelain", "--", "src") else ""
    return {
        "commit": (git("rev-parse", "--short=12", "HEAD") or "unknown") + changed,
        "date": datetime.date.today().isoformat(),
        "versions": f"fullmesh {fullmesh.__version__}, Python {platform.python_version()}, NumPy {np.__version__}",
        "command": "python scripts/golden.py",
    }


def main() -> None:
    new = records()
    if FILE.is_file():
        before = {r["name"]: r for r in json.loads(FILE.read_text("utf-8"))["estimates"]}
        for record in new:
            old = before.get(record["name"])
            if old is None:
                print(f"{record['name']}: new")
                continue
            step, memory = (record[k] / old[k] - 1 for k in ("step_s", "memory_bytes"))
            print(f"{record['name']}: step {step:+.3%}, memory {memory:+.3%}")
    if "--compare" not in sys.argv[1:]:
        write_json(FILE, {"passport": passport(), "estimates": new})
        print(f"wrote {FILE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
