"""Writes the marked figures of README.md, README.zh-CN.md and docs/ again, from what the program prints today.

A figure stands between ``<!--=KEY-->`` and ``<!--/-->``; so does a block: ``compare:LANG`` (a printed comparison),
``groups: HEADER CELLS`` (errors by chip and model), ``options:COMMAND`` (a command's options), ``plan-fields`` (the
fields of a plan), ``capabilities`` (those that software decides), ``run: COMMAND LINE`` (what a command prints on a
terminal of 80 columns; ``| head -N`` and ``| tail -N`` may follow). ``--keys`` lists all.
Run it after any change of a profile, a fact, a model or an option: ``python scripts/readme_numbers.py``
(``make numbers``); ``--check`` only says what would change.
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import difflib
import io
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"<!--=(?P<key>[^>]*?)-->(?P<text>.*?)<!--/-->", re.DOTALL)
MODEL, MACHINES = "deepseek-v3", "cloudmatrix384,gb200-nvl72,h200"
EXAMPLE = "docs/examples/deepseek-v3-cloudmatrix384.toml"
TYPE_NAMES = {"integer range": "INTEGER", "float range": "FLOAT", "datetime": "YYYY-MM-DD"}
SHORT = {"cm": "cloudmatrix384", "gb": "gb200-nvl72", "h200": "dgx-h200"}


def pages() -> list[Path]:
    """The files that hold marked figures."""
    return [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]


def run(*arguments: str) -> str:
    """Standard output of the command line, in this process; the gate's exit code does not matter here."""
    from fullmesh.faces.cli.main import cli

    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.suppress(SystemExit),
    ):
        # a context of its own, so that no choice of a language lasts
        contextvars.copy_context().run(cli.main, list(arguments), standalone_mode=False)
    return out.getvalue()


def percent(value: float) -> str:
    """``0.0469`` is ``4.7 %``."""
    return f"{100 * value:.1f} %"


def number(value: float) -> str:
    """Three digits, or whole with commas from a thousand on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def validation_figures(summary: dict[str, Any]) -> dict[str, str]:
    """Figures of ``fullmesh validate --json``."""
    out: dict[str, str] = {}
    names = {
        "cross-validated over configurations": "cv",
        "whole publishers left out": "lopo",
        "fitted on these rows": "fit",
        "naive model, fitted on these rows": "naive",
    }
    for errors in summary["headline"]:
        if short := names.get(errors["group"]):
            out[f"{short}.median"], out[f"{short}.p90"] = percent(errors["median"]), percent(errors["p90"])
            out["rows"] = f"{errors['rows']:,}"
    headline = {names[e["group"]]: e for e in summary["headline"] if e["group"] in names}
    out["naive.ratio.median"] = f"{headline['fit']['median'] / headline['naive']['median']:.2f}"
    out["naive.ratio.p90"] = f"{headline['fit']['p90'] / headline['naive']['p90']:.2f}"
    for name, found in summary["coverage"].items():
        short = name.replace("tier ", "tier").lower()
        out[f"{short}.rows"] = f"{found['rows']:,}"
        out[f"{short}.predicted"] = f"{found['predicted']:,}"
    for group in ("kind of model", "chip and kind", "chip family", "publisher"):
        for errors in summary["groups"][group]:
            key = errors["group"].lower().replace(" ", "-")
            out[f"{key}.rows"] = f"{errors['rows']:,}"
            out[f"{key}.median"], out[f"{key}.p90"] = percent(errors["median"]), percent(errors["p90"])
    out["memory.mean"] = percent(summary["memory_mean_of_publisher_medians"])
    out["memory.rows"] = f"{sum(e['rows'] for e in summary['memory']):,}"
    for errors in summary["memory"]:
        out[f"memory.{errors['group']}"] = percent(errors["median"])
    refused = summary["refused_for_memory"]["all"]
    out["refused"], out["refused.of"] = f"{refused['refused']:,}", f"{refused['rows']:,}"
    cover = summary["interval_coverage"]
    out["cover.all"] = percent(cover["all"]["share"])
    unseen = {n.removeprefix("unseen publishers: "): c for n, c in cover.items() if n.startswith("unseen")}
    out["cover.unseen"] = percent(unseen["all"]["share"])
    publishers = {errors["group"] for errors in summary["groups"]["publisher"]}
    many = [c["share"] for name, c in unseen.items() if name in publishers and c["rows"] >= 10]
    out["cover.least"], out["cover.most"] = percent(min(many)), percent(max(many))
    return out


def compare_figures(record: dict[str, Any]) -> dict[str, str]:
    """Figures of ``fullmesh compare --json``."""
    out: dict[str, str] = {}
    for short, machine in SHORT.items():
        column = next(m for m in record["machines"] if m["machine"] == machine)
        best = column["best"]
        out[f"{short}.step"] = f"{number(best['step_s'])} s"
        out[f"{short}.low"] = f"{number(best['interval_80']['low_s'])} s"
        out[f"{short}.high"] = f"{number(best['interval_80']['high_s'])} s"
        out[f"{short}.mfu"] = percent(best["mfu"])
        out[f"{short}.peak"] = f"{column['matrix_flop_per_s'] / 1e15:,.0f} PFLOP/s"
        if column["published_bf16_flop_per_s"]:
            out[f"{short}.published"] = f"{column['published_bf16_flop_per_s'] / 1e15:,.0f} PFLOP/s"
        out[f"{short}.energy"] = f"{best['energy_per_token_j']:.2f} J"
    for prefix, ratios in (("", record["ratios"]), ("packages.", record["equal_packages"]["ratios"])):
        for r in ratios:
            pair = {r["faster"], r["slower"]}
            if pair == {SHORT["cm"], SHORT["gb"]}:
                # as throughput of a GB200 NVL72 over a CloudMatrix 384 at equal packages, the other way as wholes
                top = SHORT["gb"] if prefix else SHORT["cm"]
                turn: Callable[[float], float] = (lambda v: v) if r["faster"] == top else (lambda v: 1.0 / v)
                low, high = sorted((turn(r["low"]), turn(r["high"])))
                out[f"{prefix}ratio"] = f"{turn(r['tokens_per_s_ratio']):.2f}"
                out[f"{prefix}ratio.low"], out[f"{prefix}ratio.high"] = f"{low:.2f}", f"{high:.2f}"
    return out


def simulate_figures(record: dict[str, Any]) -> dict[str, str]:
    """Figures of ``fullmesh simulate --json`` on the example, for the worked page."""
    best, fall = record, {loss["key"]: loss["seconds"] for loss in record["waterfall"]}
    out = {
        "sim.step": f"{best['closed_form_step_s']:.1f} s",
        "sim.low": f"{best['interval_80']['low_s']:.1f} s",
        "sim.high": f"{best['interval_80']['high_s']:.1f} s",
        "sim.bound.low": f"{best['bounds']['low_s']:.1f} s",
        "sim.bound.high": f"{best['bounds']['high_s']:.1f} s",
        "sim.mfu": percent(best["mfu"]),
        "sim.hfu": percent(best["hfu"]),
        "sim.tokens": f"{best['tokens_per_s']:,.0f}",
        "sim.tokens.device": f"{best['tokens_per_s_per_device']:,.0f}",
        "sim.tokens.package": f"{2 * best['tokens_per_s_per_device']:,.0f}",
        "sim.energy": f"{best['energy_per_step_j'] / 1e6:.1f} MJ",
        "sim.energy.token": f"{best['energy_per_token_j']:.2f} J",
        "sim.interval.rows": best["interval_80"]["basis"].split(" ")[0],
    }
    groups = {
        "ideal": ["ideal_s"],
        "kernels": ["kernels_s"],
        "routing": ["memory_s", "route_s"],
        "recompute": ["recompute_s"],
        "launch": ["launch_s"],
        "communication": ["tp_s", "ep_s", "cp_s", "fsdp_s", "send_s", "data_parallel_s"],
        "pipeline": ["bubble_s", "uneven_s"],
        "rest": ["optimizer_s", "fixed_s", "straggler_s"],
    }
    for name, keys in groups.items():
        out[f"sim.{name}"] = f"{sum(fall[k] for k in keys):.1f} s"
    stage = max(best["stages"], key=lambda s: s["used_bytes"])
    memory = stage["memory"]
    out |= {f"sim.memory.{k}": f"{v / 1e9:.1f} GB" for k, v in memory.items()}
    out["sim.memory.used"] = f"{stage['used_bytes'] / 1e9:.1f} GB"
    out["sim.memory.capacity"] = f"{best['capacity_bytes'] / 1e9:.1f} GB"
    out["sim.memory.stage"] = str(stage["index"])
    return out


def compare_block(text: str) -> str:
    """The printed comparison up to the tables at equal packages, as a fenced block."""
    kept = re.split(r"\n(?=Equal packages|封装数相同)", text, maxsplit=1)[0]
    lines = [line.rstrip() for line in kept.strip().splitlines()]
    return "\n```text\n" + "\n".join(lines) + "\n```\n"


def groups_block(key: str, summary: dict[str, Any]) -> str:
    """A table of errors by chip and kind of model, under the header of the mark."""
    header = [cell.strip() for cell in key.partition(":")[2].split("|")]
    rows = [
        [e["group"], f"{e['rows']:,}", percent(e["median"]), percent(e["p90"])]
        for e in summary["groups"]["chip and kind"]
    ]
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows)) + "\n\n"


def run_block(line: str) -> str:
    """A command line with what it prints in 80 columns, as a fenced block."""
    command, _, cut = line.partition(" | ")
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    folder = Path.cwd()
    os.environ |= {"COLUMNS": "80", "NO_COLOR": "1"}
    os.chdir(ROOT)
    try:
        text = run(*shlex.split(command)[1:])
    finally:
        os.chdir(folder)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    lines = [part.rstrip() for part in text.splitlines()]
    if cut:
        word, _, number = cut.partition(" -")
        lines = {"head": lines[: int(number)], "tail": lines[-int(number) :]}[word]
    return f"\n\n```console\n$ {line}\n" + "\n".join(lines).strip("\n") + "\n```\n\n"


def find_command(name: str) -> click.Command:
    """A command of the command line, ``calibrate here`` for one inside a group."""
    from fullmesh.faces.cli.main import cli

    command: click.Command = cli
    for part in name.split():
        assert isinstance(command, click.Group), name
        found = command.get_command(click.Context(command), part)
        if found is None:
            raise KeyError(name)
        command = found
    return command


def commands() -> list[str]:
    """Every command that can be called, groups and what is in them."""
    from fullmesh.faces.cli.main import COMMANDS

    out = []
    for name in COMMANDS:
        out.append(name)
        command = find_command(name)
        if isinstance(command, click.Group):
            out += [f"{name} {inner}" for inner in command.list_commands(click.Context(command))]
    return out


def options_block(name: str) -> str:
    """The options of a command as a table."""
    command = find_command(name)
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for parameter in command.params:
        if not isinstance(parameter, click.Option):
            continue
        kind = parameter.type
        word = "" if parameter.is_flag else " " + (parameter.metavar or "").strip()
        if not parameter.is_flag and not parameter.metavar:
            word = " " + (
                "|".join(kind.choices)
                if isinstance(kind, click.Choice)
                else TYPE_NAMES.get(kind.name, kind.name.upper())
            )
        shown = parameter.default if parameter.show_default and not parameter.is_flag else None
        default = "" if callable(shown) or shown is None else f"`{shown}`"
        if parameter.required:
            default = "required"
        text = f"`{parameter.opts[0]}{word.replace('|', chr(92) + '|')}`"
        rows.append(f"| {text} | {default} | {(parameter.help or '').strip()} |")
    return "\n\n" + "\n".join(rows) + "\n\n"


def plan_fields_block() -> str:
    """The fields of a plan as a table, from their declaration."""
    from fullmesh.plan.plan import FIELDS

    def cell(text: str) -> str:
        return text.replace("|", chr(92) + "|")

    rows = ["| key of `[plan]` | values | default | meaning | 含义 |", "|---|---|---|---|---|"]
    for name, field in FIELDS.items():
        default = {True: "true", False: "false", "": "", (): ""}.get(field.default, str(field.default))
        values = ", ".join(field.choices) if field.choices else field.expected
        rows.append(
            f"| `{name}` | {cell(values)} | {f'`{default}`' if default else ''} | {cell(field.en)} | "
            f"{cell(field.zh)} |"
        )
    return "\n\n" + "\n".join(rows) + "\n\n"


def collect(validation: Path | None = None) -> Callable[[str], str]:
    """What each key stands for today; raises KeyError for a key that does not exist."""
    if validation is None:
        with tempfile.TemporaryDirectory() as folder:
            validation = Path(folder) / "validation.json"
            run("validate", "--worst", "0", "--json", str(validation))
            summary = json.loads(validation.read_text(encoding="utf-8"))["summary"]
    else:
        summary = json.loads(validation.read_text(encoding="utf-8"))["summary"]
    figures = validation_figures(summary)
    figures |= compare_figures(json.loads(run("compare", MODEL, "--on", MACHINES, "--json")))
    figures |= simulate_figures(json.loads(run("simulate", str(ROOT / EXAMPLE), "--json")))
    blocks = {
        f"compare:{lang}": compare_block(run("compare", MODEL, "--on", MACHINES, "--lang", lang))
        for lang in ("en", "zh")
    }
    blocks["plan-fields"] = plan_fields_block()
    from fullmesh.plan.software import CAPABILITIES

    blocks["capabilities"] = ", ".join(f"`{name}`" for name in CAPABILITIES)

    def value(key: str) -> str:
        if key.startswith("options:"):
            return options_block(key.partition(":")[2])
        if key.startswith("run:"):
            return run_block(key.partition(":")[2].strip())
        if key.startswith("groups:"):
            return groups_block(key, summary)
        return blocks[key] if key in blocks else figures[key]

    value.keys = [
        *blocks,
        "groups: HEADER CELLS",
        "run: COMMAND LINE",
        *(f"options:{name}" for name in commands()),
        *sorted(figures),
    ]  # type: ignore[attr-defined]
    return value


def rewrite(text: str, value: Callable[[str], str]) -> str:
    """A page with every marked figure written again."""
    return MARK.sub(lambda m: f"<!--={m['key']}-->{value(m['key'].strip())}<!--/-->", text)


def main() -> int:
    """Write the pages, or with ``--check`` print the differences and exit with 1 where there are some."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="only print what would change; exit with 1 if anything"
    )
    parser.add_argument("--keys", action="store_true", help="print every key with its figure")
    parser.add_argument("--validation", type=Path, help="an existing JSON of `fullmesh validate --json`")
    options = parser.parse_args()
    value = collect(options.validation)
    if options.keys:
        for key in value.keys:  # type: ignore[attr-defined]
            print(key if ":" in key else f"{key:40} {value(key)}")
        return 0
    changed = 0
    for path in pages():
        old = path.read_text(encoding="utf-8")
        try:
            new = rewrite(old, value)
        except KeyError as error:
            print(f"{path.relative_to(ROOT)}: no figure is called {error}", file=sys.stderr)
            return 2
        if new == old:
            continue
        changed += 1
        name = str(path.relative_to(ROOT))
        print(f"{name}: figures differ" if options.check else f"{name}: written")
        if options.check:
            sys.stdout.writelines(
                difflib.unified_diff(old.splitlines(True), new.splitlines(True), name, name, n=0)
            )
        else:
            draft = path.with_suffix(".new")
            draft.write_text(new, encoding="utf-8")
            os.replace(draft, path)
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
