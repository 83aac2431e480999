"""Every text that a person reads is Chinese under ``--lang zh``: as it stands in the source, and as it is printed."""

from __future__ import annotations

import ast
import csv
import functools
import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

import fullmesh
from fullmesh.faces.cli import tables
from fullmesh.faces.cli.main import COMMANDS, cli
from fullmesh.glossary import load_glossary
from fullmesh.language.rendering import render
from fullmesh.language.sentences import SENTENCES, entries, is_prose, templates
from fullmesh.language.wrapping import wrapped
from fullmesh.study.sweep.journal import header

CommandLine = Callable[..., tuple[int, str, str]]
LAUNCH = str(Path(__file__).parents[2] / "docs" / "examples" / "llama-3-8b.sh")
ROOT = Path(fullmesh.__file__).parent
EXAMPLE = str(Path(__file__).parents[2] / "docs" / "examples" / "deepseek-v3-cloudmatrix384.toml")
GRID = str(Path(__file__).parent / "sizes.toml")
HOLE = re.compile(r"\{=?(\d+)\}")
# parts of the file whose entries are put together at run time, or are said by others
NOT_IN_THE_SOURCE = (
    "what Click says of options and arguments",
    "what the operating system and the readers of Python say",
    "units of machines and words of plans, put together from parts",
)
# files that hold texts which no command prints
NOT_PRINTED = {
    "language/rendering.py": "patterns of its own",
    "network/draw.py": "words of a drawing",
    "study/launch/readme.py": "the README of a launch folder",
    "timeline/trace/chrome.py": "names of slices in a trace",
    "validate/document.py": "the page docs/accuracy.md",
    "validate/stability.py": "the page docs/stability.md",
}
# a command or a line of a file that one types is the same in every language
TYPED = re.compile(
    r"\s*(?:fullmesh|pip install|--|#|<|\|?[\w.]+ = |\"format\"|\d[\d,]* to \d|calibrate --"
    r"|catalog (?:show|models?|faults|inputs)$)"
)
NOT_SHOWN_CALLS = {
    "ValueError", "TypeError", "KeyError", "RuntimeError", "AssertionError", "NotImplementedError", "compile", "sub",
    "search", "match", "fullmatch", "findall", "finditer", "split", "startswith", "endswith", "removeprefix",
    "removesuffix", "TypeVar", "dtype", "joinpath",
}  # fmt: skip


def pieces(node: ast.AST) -> list[str | ast.AST] | None:
    """A text in the source as what stands in it and what is put in, None for anything else."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return [v.value if isinstance(v, ast.Constant) else v for v in node.values]  # type: ignore[misc]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = pieces(node.left), pieces(node.right)
        if left is None and right is None:
            return None
        return (left or [node.left]) + (right or [node.right])
    return None


def is_chinese(node: ast.AST) -> bool:
    """Whether an argument is the Chinese of the one before it."""
    return bool(re.search(r"[\u4e00-\u9fff]", "".join(p for p in pieces(node) or () if isinstance(p, str))))


def texts_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every text of a module with numbered holes: no docstring, no annotation, no error of our own."""
    told = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    todo = [tree]
    while todo:
        node = todo.pop()
        if id(node) in told and isinstance(node, ast.Constant):
            continue
        parts = pieces(node)
        if parts is not None:
            text, number = "", 0
            for part in parts:
                if isinstance(part, str):
                    text += part
                else:
                    text += f"{{{number}}}"
                    number += 1
                    todo.append(part)
            yield node.lineno, text  # type: ignore[attr-defined]
            continue
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            if name in NOT_SHOWN_CALLS:
                continue
            if name == "join":  # what stands between the parts of a list
                todo += node.args
                continue
            beside = {id(a) for a, b in zip(node.args, node.args[1:], strict=False) if is_chinese(b)}
            todo += [a for a in ast.iter_child_nodes(node) if id(a) not in beside]
            continue
        if isinstance(node, ast.Assert):
            continue
        if isinstance(node, ast.AnnAssign):
            todo += [node.value] if node.value else []
            continue
        todo += ast.iter_child_nodes(node)


@functools.cache
def source_texts() -> tuple[tuple[str, int, str], ...]:
    """All texts of the program, by file and line."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        found += [(name, line, text) for line, text in texts_of(ast.parse(path.read_text("utf-8")))]
    return tuple(found)


@functools.cache
def help_texts() -> tuple[str, ...]:
    """Help of every command and option."""
    found = [text for _, text in COMMANDS.values()]
    todo: list[click.Command] = [cli]
    with click.Context(cli) as context:
        todo += [c for name in COMMANDS if (c := cli.get_command(context, name)) is not None]
    while todo:
        command = todo.pop()
        found.append(command.help or "")
        found += [p.help for p in command.params if isinstance(p, click.Option) and p.help]
        todo += (
            list(command.commands.values()) if isinstance(command, click.Group) and command is not cli else []
        )
    return tuple(found)


def says_something(text: str) -> bool:
    """Whether a text has a word beside another or beside what is put in."""
    words = HOLE.sub("", text)
    return (
        " " in text.strip("\n")
        and bool(re.search(r"[a-z]{2,}", words))
        and not re.search(r"[\u4e00-\u9fff]", text)
    )


@functools.cache
def data_texts() -> tuple[str, ...]:
    """Texts of data files that a command prints: bases of facts, kinds, sources of prices and wirings, meanings."""
    found = [term.meaning for term in load_glossary().values()]
    for path in (ROOT / "data" / "facts").glob("*.csv"):
        with path.open(encoding="utf-8") as file:
            found += [
                row[k] for row in csv.DictReader(file) for k in ("basis", "direction", "kind", "status")
            ]
    for path in (ROOT / "data" / "prices").glob("*.csv"):
        with path.open(encoding="utf-8") as file:
            found += [row["source"] for row in csv.DictReader(file)]
    for path in (ROOT / "data" / "machines").glob("*.toml"):
        found += [
            w["source"] for w in tomllib.loads(path.read_text("utf-8")).get("wiring", ()) if "source" in w
        ]
        found.append(tomllib.loads(path.read_text("utf-8")).get("source", ""))
    for path in (ROOT / "data" / "models").glob("*.json"):
        found.append(path.read_text("utf-8"))
    return tuple(found)


def sections() -> dict[str, str]:
    """The part of the file that each entry stands in."""
    out, section = {}, ""
    for line in (ROOT / "data" / SENTENCES).read_text("utf-8").splitlines():
        if line.startswith("# "):
            section = line[2:]
        elif found := re.fullmatch(r'msgid "(.+)"', line):
            out[found[1].replace('\\"', '"').replace("\\\\", "\\")] = section
    return out


def test_every_text_of_the_source_has_its_chinese() -> None:
    missing = []
    for name, line, text in source_texts():
        if name in NOT_PRINTED or not says_something(text) or TYPED.match(text):
            continue
        for entry in templates(text):
            bare = re.sub(r"[>?=]+$", "", entry) if name.startswith("faces/cli/") else entry
            if (
                says_something(bare)
                and entry not in entries()
                and bare not in entries()
                and bare not in kept()
            ):
                missing.append(f"{name}:{line}: {entry}")
    assert not missing, "\n".join(missing)


@functools.cache
def kept() -> frozenset[str]:
    """Texts that are the same in every language, or that no command prints."""
    lines = (Path(__file__).parent / "kept_in_english.txt").read_text("utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("## "))


def test_every_help_text_has_its_chinese() -> None:
    missing = [e for text in help_texts() for e in templates(text) if e and e not in entries()]
    # what holds names of choices is a template with holes
    missing = [e for e in missing if not re.search(r"[\u4e00-\u9fff]", render(e)) or is_prose(render(e))]
    assert not missing, "\n".join(missing)


def test_no_entry_is_left_over() -> None:
    known = {e for _, _, text in source_texts() for e in templates(text)}
    known |= {re.sub(r"[>?=]+$", "", e) for e in known} | {e.strip() for e in known}
    known |= {e for text in help_texts() for e in templates(text)}
    data = "\n".join(data_texts())
    left = []
    for entry, section in sections().items():
        if section in NOT_IN_THE_SOURCE or entry in known or f"{entry[:1].upper()}{entry[1:]}" in known:
            continue
        pattern = ".+?".join(re.escape(part) for part in re.split(r"\{\d+\}", entry))
        if not re.search(pattern, data):
            left.append(f"{section}: {entry}")
    assert not left, "\n".join(left)


def test_entries_are_read_and_stand_once() -> None:
    found = re.findall(r'^msgid "(.+)"$', (ROOT / "data" / SENTENCES).read_text("utf-8"), re.MULTILINE)
    assert len(found) == len(set(found)) == len(entries())


def test_holes_agree() -> None:
    for english, chinese in entries().items():
        assert set(HOLE.findall(english)) == set(HOLE.findall(chinese)), english
        assert not re.search(r"\{[^}]*$|^[^{]*\}", chinese), english


def test_chinese_is_written_as_chinese() -> None:
    """Full-width signs between Chinese, a blank between Chinese and Latin letters, the terms of the glossary."""
    for english, chinese in entries().items():
        assert not re.search(r"[\u4e00-\u9fff][,;:!?]|[,;:!?][\u4e00-\u9fff]", chinese), (english, chinese)
        assert not re.search(r"[\u4e00-\u9fff][A-Za-z0-9]|[A-Za-z0-9][\u4e00-\u9fff]", chinese), (
            english,
            chinese,
        )
        assert "  " not in chinese, english


SHOWN = [
    ["compare", "deepseek-v3"],
    ["compare", "llama-3-8b", "--on", "atlas-950,h100,dgx-a100", "--objective", "energy"],
    ["compare", "qwen3-30b-a3b", "--on", "910b2,b200", "--chips", "64", "--precision", "fp8", "--tokens", "3T"],
    ["plan", "qwen3-30b-a3b", "--on", "cloudmatrix384", "--chips", "64"],
    ["plan", "llama-3-8b", "--on", "cloudmatrix384", "--objective", "money"],
    ["plan", "llama-3.1-405b", "--on", "h200", "--chips", "8"],
    ["goodput", "llama-3-8b", "--on", "h100", "--units", "8", "--tokens", "1T", "--policy", "all",
     "--power-cap", "500W", "--site", "2MW", "--grid", "400"],
    ["goodput", "deepseek-v3", "--on", "cloudmatrix384", "--units", "2", "--tokens", "1T"],
    ["sweep", GRID, "--out", "rows.csv", "--no-timing"],
    ["compare", "llama-3-8b", "--on", "h100,gb200", "--chips", "72", "--run", "1T"],
    ["simulate", EXAMPLE, "--straggler", "rank=17:1.2"],
    ["check", EXAMPLE, "--step-time", "300s"],
    ["check", LAUNCH, "--on", "h200"],
    ["simulate", EXAMPLE, "--level", "bottleneck", "--against", EXAMPLE],
    ["fabric", "gb200-nvl72", "--fail", "nvswitch=1", "--failures", "--matrix", "--load", "--collectives"],
    ["fabric", "dgx-h200", "--devices", "64", "--jobs", "0-31,32-63", "--experts", "ranks=64", "--measured"],
    ["fabric", "cloudmatrix384", "--placements", "tp=8,ep=16,dp=6"],
    ["catalog"],
    ["catalog", "--conflicts"],
    ["catalog", "--item", "h200"],
    ["catalog", "show", "gb200-nvl72"],
    ["catalog", "show", "cloudmatrix384"],
    ["catalog", "show", "atlas-950-superpod"],
    ["catalog", "show", "ascend-910c"],
    ["catalog", "models"],
    ["catalog", "model", "deepseek-v3"],
    ["catalog", "model", "qwen3-30b-a3b", "--ops"],
    ["doctor"],
    ["validate", "--worst", "3"],
    ["validate", "--collectives"],
    *([*name, "--help"] for name in ([], *([n] for n in COMMANDS))),
    *(["calibrate", name, "--help"] for name in ("operators", "collectives", "published", "faults", "here")),
    *(["catalog", name, "--help"] for name in ("show", "model", "models")),
]  # fmt: skip
# what a line may hold: the title of a paper or page, what one types, the source of a model or machine and its note
NAMES = re.compile(
    r"fullmesh [a-z]+(?: [a-z]+)*|arXiv[^，；。]*|NVIDIA DGX[^）]*|pip install \S+|"
    r"^用法：.*|^ (?:结构的来源|来源|备注|公布值) .*"
)


@pytest.mark.parametrize("args", SHOWN, ids=lambda a: " ".join(Path(x).name for x in a)[:60] or "help")
def test_no_line_of_a_command_is_english(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, args: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "500")
    quoted = tables._spoken

    def without_quotations(sheet: tables.Sheet) -> tables.Sheet:
        for i in sheet.quoted:
            sheet.columns[i]._cells = ["" for _ in sheet.columns[i]._cells]
        return quoted(sheet)

    monkeypatch.setattr(tables, "_spoken", without_quotations)
    code, out, err = command_line(*args, "--lang", "zh")
    assert code != 2, err
    lines = [
        line
        for line in (out + err).splitlines()
        if is_prose(NAMES.sub("", line)) and "$ fullmesh" not in line
    ]
    assert not lines, "\n".join(lines)
    assert re.search(r"[\u4e00-\u9fff]", out)


MISTAKES = [
    "frobnicate", "--foo", "compare", "compare nomodel", "compare deepseek-v3 --on nomachine",
    "compare deepseek-v3 --on h200,h200", "compare deepseek-v3 --on ,", "compare deepseek-v3 --seq abc",
    "compare deepseek-v3 --seq 0", "compare deepseek-v3 --batch x", "compare deepseek-v3 --batch 0_tokens",
    "compare deepseek-v3 --tokens -3", "compare deepseek-v3 --chips 1,2,3,4,5", "compare deepseek-v3 --chips a",
    "compare deepseek-v3 --precision fp99", "compare deepseek-v3 --objective speed", "compare deepseek-v3 --onn h200",
    "compare deepseek-v3 --csv --json", "compare deepseek-v3 --prices none.csv", "compare deepseek-v3 extra",
    "compare llama-3-8b --basis money --on h200", "plan llama-3-8b", "plan llama-3-8b --on h200 --chips 0",
    "plan llama-3-8b --on h200 --chips 1000000000", "plan llama-3-8b --on h200 --top 0", "plan llama-3-8b --on",
    "plan llama-3-8b --on h200 --top x", "plan llama-3-8b --on h200 --export x --to y",
    "plan llama-3-8b --on h200 --export megatron --to nofolder/x", "plan llama-3-8b --on h200 --batch 7 --chips 64",
    "plan llama-3-8b --on cloudmatrix384 --chips 7", "simulate nofile.toml", "simulate broken.toml",
    "simulate table.toml", "simulate plan.toml", "simulate zero.toml", "simulate plan.toml --trace x.txt",
    "simulate plan.toml --engine foo", "simulate plan.toml --profile broken.json", "simulate zero.toml --jitter 3",
    "check nothing.sh --on h200", "check zero.toml --step-time soon", "check zero.toml --step-time 3s --tokens-per-s 3",
    "check broken.json --on h200", "check zero.toml --on h200", "check zero.toml --log nolog.txt",
    "compare shape.json", "compare broken.json", "compare encoder.json", "compare moe.json", "fabric nomachine",
    "fabric h200 --fail foo", "fabric h200 --fail l9=1", "fabric h200 --fail link=0", "fabric h200 --devices -1",
    "fabric h200 --scale 2 --devices 8", "fabric h200 --bytes 3", "fabric h200 --bytes x", "fabric h200 --seed -1",
    "fabric h200 --placements a=b", "fabric h200 --experts foo=1", "fabric h200 --experts ranks=x",
    "fabric h200 --jobs 1-2-3", "fabric h200 --level foo", "fabric h200 --svg x.png", "fabric broken.toml",
    "catalog show nothing", "catalog --item nothing", "catalog --source nothing", "catalog --kind nothing",
    "catalog model nothing", "catalog model llama-3-8b --csv x.csv", "catalog foo", "catalog --json show h200",
    "validate --results none.csv", "validate --results table.csv", "validate --operators nofolder",
    "validate --document x.txt", "validate --worst x", "validate --worst -1", "calibrate operators",
    "sweep", "sweep grid.toml", "sweep nofile.toml --out r.csv", "sweep broken.toml --out r.csv",
    "sweep table.toml --out r.csv", "sweep grid.toml --out r.txt", "sweep grid.toml --out r.csv --jobs 0",
    "sweep grid.toml --out r.csv --ray-address x:1", "sweep grid.toml --out damaged.csv",
    "sweep empty.toml --out r.csv", "sweep sizes.toml --out r.csv", "sweep grid.toml --out other.csv",
    "sweep grid.toml --out mine.csv",
    "calibrate operators nofolder", "calibrate operators .", "calibrate collectives .", "calibrate here",
    "calibrate published --date x", "calibrate here --device foo --out z.json",
]  # fmt: skip
FILES = {
    "broken.toml": "x = = 1",
    "broken.json": '{"a":',
    "table.toml": '[model]\nname = "deepseek-v3"\n[foo]\nname = "h200"\n',
    "plan.toml": '[model]\nname = "deepseek-v3"\n[machine]\nname = "h200"\n[plan]\ntp = 3\ngbs = 10\n',
    "zero.toml": '[model]\nname = "llama-3-8b"\n[machine]\nname = "h200"\nchips = 8\n[plan]\ngbs = 8\nzero = 7\n',
    "shape.json": json.dumps({"model_type": "llama", "hidden_size": 100, "num_attention_heads": 3}),
    "encoder.json": json.dumps({"model_type": "bert"}),
    "moe.json": json.dumps({"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 2}),
    "table.csv": "id,tier\n1,A\n",
    "grid.toml": '[grid]\nmodel = "llama-3-8b"\nmachine = "h200"\nchips = 12\n',
    "empty.toml": "[grid]\n",
    "sizes.toml": '[grid]\nmodel = "llama-3-8b"\nmachine = "h200"\nchips = ["many"]\n',
    "mine.csv.journal": "a table of mine\n",
    "other.csv.journal": '{"format": "fullmesh sweep journal 1", "fullmesh": "9.9", "program": "0123456789abcdef"}\n',
    "damaged.csv.journal": header().decode() + "{}\n",
}
# a command that is named
FOREIGN = re.compile(r"`[^`]*`|(?<=错误：)fullmesh [a-z ]+(?=：)")


@pytest.mark.parametrize("line", MISTAKES)
def test_no_line_of_a_mistake_is_english(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code, out, err = command_line(*(part.replace("_tokens", " tokens") for part in line.split()), "--lang=zh")
    assert code == 2, out + err
    assert re.match(r"错误：", err), err
    assert "\n提示：" in err
    lines = [line for line in err.splitlines() if is_prose(FOREIGN.sub("", line))]
    assert not lines, "\n".join(lines)
    lines = [line for line in err.splitlines() if line and not re.search(r"[\u4e00-\u9fff]{2}", line)]
    assert not lines, "\n".join(lines)


FIGURES = st.one_of(
    st.integers(0, 10**7).map("{:,}".format),
    st.floats(0.01, 1e4).map("{:.3g} GB".format),
    st.floats(0, 1).map("{:.1%}".format),
)
NAMED = st.from_regex(r"[A-Z][a-z]{2,6}[0-9]{1,3}", fullmatch=True)


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data(), st.sampled_from(sorted(entries())))
def test_nothing_that_is_put_in_is_lost(data: st.DataObject, entry: str) -> None:
    numbers = list(dict.fromkeys(HOLE.findall(entry)))
    values = [data.draw(st.one_of(FIGURES, NAMED)) for _ in numbers]
    text = entry
    for number, value in zip(numbers, values, strict=True):
        text = text.replace(f"{{{number}}}", value)
    shown = render(text)
    assert all(part in shown for value in values for part in value.split()), (text, shown)


def numbers_in(text: str) -> Counter[str]:
    """Figures of a text."""
    return Counter(re.findall(r"\d[\d.,]*\d|\d", text))


WORDS = st.sampled_from(sorted({w for e in entries() for w in re.findall(r"[A-Za-z/%-]+", e)}))
PARTS = st.one_of(
    WORDS, FIGURES, NAMED, st.sampled_from([", ", "; ", ": ", " and ", " of ", " (", ") ", "'", '"', "."])
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(PARTS, max_size=30).map(" ".join), st.text(max_size=40))
def test_figures_of_any_text_stay(text: str, other: str) -> None:
    assert not numbers_in(text) - numbers_in(render(text))
    assert isinstance(render(other), str)
    assert isinstance(render(f"{text} {other}"), str)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.text(alphabet="显存 a1，。（）.,%GB\n", max_size=80), st.integers(4, 40))
def test_lines_are_no_wider_than_they_may_be(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join(text.split()) == "".join("".join(lines).split())


def test_the_language_is_chosen(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    english = command_line("catalog", "models")
    chinese = command_line("catalog", "models", "--lang", "zh")
    assert english != chinese
    assert command_line("--lang", "zh", "catalog", "models") == chinese
    monkeypatch.setenv("FULLMESH_LANG", "zh")
    assert command_line("catalog", "models") == chinese
    assert command_line("catalog", "models", "--lang", "en") == english
    assert command_line("--help")[1].startswith("用法：")
    assert command_line("--lang", "en", "--help")[1].startswith("Usage: ")
    monkeypatch.setenv("FULLMESH_LANG", "fr")
    code, _, err = command_line("catalog", "models")
    assert code == 2
    assert "FULLMESH_LANG: unknown language 'fr'" in err
    assert command_line("catalog", "models", "--lang", "en") == english


@pytest.mark.parametrize(
    "args",
    [
        ("compare", "llama-3-8b", "--on", "h200", "--chips", "16", "--json"),
        ("plan", "llama-3-8b", "--on", "h200", "--chips", "16", "--csv"),
        ("catalog", "show", "h200", "--json"),
        ("catalog", "--item", "h200", "--csv"),
        ("fabric", "gb200-nvl72", "--json", "--no-timing"),
    ],
    ids=" ".join,
)
def test_data_is_the_same_in_every_language(command_line: CommandLine, args: tuple[str, ...]) -> None:
    assert command_line(*args, "--lang", "zh")[1] == command_line(*args, "--lang", "en")[1]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("args", SHOWN[:-10], ids=lambda a: " ".join(Path(x).name for x in a)[:60] or "help")
def test_every_chinese_line_fits(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, args: list[str], width: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(width))
    _, out, _ = command_line(*args, "--lang", "zh")
    assert max(cell_len(line) for line in out.splitlines()) <= width
    # no line begins with a sign that ends something
    assert not [line for line in out.splitlines() if re.match(r"\s*[，。；：、）]", line)]


def test_what_has_no_chinese_stays_english() -> None:
    text = "the quick brown fox jumps over what nobody wrote down: 12.5 % of nothing"
    assert render(text) == text
