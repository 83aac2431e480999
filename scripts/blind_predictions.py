"""Writes docs/blind-predictions.md: what is predicted for hardware that has not shipped, before there are results.

It is written once. A page that stands is never written over without ``--again``; once results appear they are put
beside it, and it stays as it is. ``--check`` says whether the table is still the one that was written.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "blind-predictions.md"
MACHINES = ("atlas-950-superpod", "vera-rubin-nvl72")
MODELS = ("llama-3.1-405b", "deepseek-v3", "pangu-ultra-moe-718b", "qwen3-235b-a22b", "whatif-moe-10t")
# the 16-bit peak of both machines is an assumption, that of FP8 nearer to what was announced
PRECISIONS = ("bf16", "fp8")
COLUMNS = (
    "machine", "model", "precision", "batch x sequence", "step", "80 % interval", "tokens/s", "MFU", "memory a device",
    "plan",
)  # fmt: skip
TABLE = re.compile(r"<!--table-->\n(?P<table>.*?)<!--/table-->", re.DOTALL)
WRITTEN = re.compile(r"^\| SHA-256 of the table \| `(?P<digest>[0-9a-f]{64})` \|$", re.MULTILINE)


def digest(data: str | bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data.encode("utf-8") if isinstance(data, str) else data).hexdigest()


def profiles_digest() -> str:
    """One digest of everything that was fitted: names and contents of data/profiles, in the order of their names."""
    from fullmesh.data import DATA_DIR

    files = sorted(path for path in (DATA_DIR / "profiles").iterdir() if path.is_file())
    return digest("".join(f"{digest(path.read_bytes())}  {path.name}\n" for path in files))


def commit() -> str:
    """The commit that the program is of, and whether anything differs from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # the page itself may be there: it is what is written
        changed = [line for line in git("status", "--porcelain").splitlines() if not line.endswith(PAGE.name)]
        return git("rev-parse", "HEAD") + (" with changes that are not committed" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "not known: this is no git repository"


def row(machine: str, model: str, precision: str) -> list[str]:
    """The cells of one prediction."""
    import fullmesh
    from fullmesh.outcomes.fields import limit_text
    from fullmesh.output import formats

    found = fullmesh.best_plans(model, machine, precision=precision, top=1)
    size = f"{found.machine.name}, {found.machine.num_devices:,} devices"
    head = [size, found.model.name, formats.precision(found.precision), f"{found.gbs:,} x {found.seq:,}"]
    if found.best is None:
        why = "" if found.closest is None else f": {limit_text(found.closest)}"
        return [*head, "does not fit", "-", "-", "-", "-", why.removeprefix(": ")]
    e = found.best
    return [
        *head,
        formats.seconds(e.step_s),
        f"{formats.seconds(e.interval.low_s)} to {formats.seconds(e.interval.high_s)}",
        f"{e.tokens_per_s:,.0f}",
        formats.percent(e.mfu),
        f"{formats.gigabytes(e.memory_bytes)} of {formats.gigabytes(e.capacity_bytes)}",
        e.plan.text(),
    ]


def table(machines: Sequence[str], models: Sequence[str], precisions: Sequence[str] = PRECISIONS) -> str:
    """All predictions as a table in Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for machine in machines:
        for model in models:
            for precision in precisions:
                lines.append(tuple(cell.replace("|", r"\|") for cell in row(machine, model, precision)))
                print(f"{machine}, {model}, {precision}: {lines[-1][4]}", file=sys.stderr)
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def document(
    machines: Sequence[str], models: Sequence[str], precisions: Sequence[str], date: datetime.date
) -> str:
    """The whole page."""
    from fullmesh import __version__
    from fullmesh.machine import load_machine

    notes = []
    for name in machines:
        machine = load_machine(name)
        if not machine.announced:
            raise SystemExit(f"{machine.name} has shipped: a prediction of it is not blind")
        notes.append(
            f"- `fullmesh catalog show {name}` lists the figures of {machine.name} with kind and source."
        )
    text = table(machines, models, precisions)
    return f"""# Blind predictions

What this program says of machines that have been announced and not delivered, written before any training result of
them was published. This page is not changed: when results appear they are set beside it, whatever they say. Figures of
both machines are announced or assumed, kernels and real steps are borrowed from earlier chips, and the intervals are
wider for that.

| | |
|---|---|
| date | {date.isoformat()} |
| program | fullmesh {__version__} |
| commit | `{commit()}` |
| SHA-256 of the fitted profiles | `{profiles_digest()}` |
| SHA-256 of the table | `{digest(text)}` |

<!--table-->
{text}<!--/table-->

Each line is the best plan of `fullmesh plan MODEL --on MACHINE --precision PRECISION` for one whole unit. The first
digest covers the files of `src/fullmesh/data/profiles` by name, the second the lines of the table between its marks;
`python scripts/blind_predictions.py --check` compares it.

{chr(10).join(notes)}
"""


def problems(text: str) -> list[str]:
    """What is wrong with a page: no table, no digest, or a table that is not the one it was written with."""
    found, written = TABLE.search(text), WRITTEN.search(text)
    if found is None or written is None:
        return ["the table or its digest is missing"]
    now = digest(found["table"])
    return (
        []
        if now == written["digest"]
        else [f"the table has the digest {now}, written was {written['digest']}"]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page once; 2 where it stands, 1 where ``--check`` finds another table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--again", action="store_true", help="write over a page that stands")
    parser.add_argument("--check", action="store_true", help="only compare the table with its digest")
    parser.add_argument("--machines", nargs="+", default=MACHINES)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS)
    wanted = parser.parse_args(arguments)
    if wanted.check:
        if not wanted.out.exists():
            print(f"{wanted.out} is not written yet", file=sys.stderr)
            return 2
        found = problems(wanted.out.read_text(encoding="utf-8"))
        print("\n".join(found) or "the table is the one that was written")
        return 1 if found else 0
    if wanted.out.exists() and not wanted.again:
        print(f"{wanted.out} stands: it is written once (--again writes over it)", file=sys.stderr)
        return 2
    from fullmesh.errors import FullmeshError
    from fullmesh.files import check_writable, write_text

    try:
        check_writable(wanted.out, where="--out", endings=(".md",))
        today = datetime.datetime.now(datetime.UTC).date()
        write_text(
            wanted.out, document(wanted.machines, wanted.models, wanted.precisions, today), where="--out"
        )
    except FullmeshError as error:
        print(error.render(), file=sys.stderr)
        return 2
    print(f"{wanted.out}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
