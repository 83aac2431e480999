"""Grid files: lists of models, machines, sizes and options in TOML, read strictly; their product, point by point."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fullmesh import __version__
from fullmesh.cost.personal import Personal, read_personal
from fullmesh.data import DATA_DIR
from fullmesh.errors import FullmeshError, ScenarioError, did_you_mean, shown
from fullmesh.machine import Machine, load_machine
from fullmesh.machine.load import MAX_DEVICES, size_check
from fullmesh.machine.source_lines import SourceLines
from fullmesh.output.state import encode
from fullmesh.plan.plan import FIELDS
from fullmesh.plan.software import Software
from fullmesh.reading import check_data, read_toml
from fullmesh.search import OBJECTIVES
from fullmesh.study.batch import default_seq
from fullmesh.study.options import named_software, read_batch, read_seq
from fullmesh.study.sweep.columns import KEY_LENGTH
from fullmesh.values import flag, items, text, whole
from fullmesh.workload import ModelSpec
from fullmesh.workload.readers.huggingface import load_model

MAX_POINTS = 1_000_000
# what stands for no choice of one's own: the machine's default size, the batch that is chosen, the model's sequence
# length, the machine's own software
DEFAULT = "default"
_HINT = "docs/examples/sweep.toml shows a whole grid"
_TABLES = ("grid", "case")
_FALLBACK: dict[str, Any] = {
    "chips": DEFAULT, "batch": DEFAULT, "seq": DEFAULT, "precision": "bf16", "software": DEFAULT,
    "objective": "time", "offload": False,
}  # fmt: skip
AXES = ("model", "machine", *_FALLBACK)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One question.

    Parameters
    ----------
    key : str
        The same for the same question, put to the same program with the same facts and fits.
    model, machine, software : int
        Where they stand in the Inputs; ``software`` is -1 for the machine's own.
    chips : int
        Devices.
    gbs : int or None
    batch_tokens : float or None
    seq : int
    precision, objective : str
    offload : bool
    refusal : str
        Why the machine cannot have that size; empty where it can.
    """

    key: str
    model: int
    machine: int
    software: int
    chips: int
    gbs: int | None
    batch_tokens: float | None
    seq: int
    precision: str
    objective: str
    offload: bool
    refusal: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the points of a grid share, each once; machines are in their default size."""

    models: tuple[ModelSpec, ...]
    machines: tuple[Machine, ...]
    software: tuple[Software, ...]
    personal: Personal | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A grid that was read: every point once, in the order asked, and how many stood there again."""

    source: str
    inputs: Inputs
    points: tuple[Point, ...]
    num_repeated: int


@functools.cache
def program_digest() -> str:
    """A digest of all that an answer depends on beside its question: the program's own code, facts and fits."""
    package = DATA_DIR.parent
    found = hashlib.sha256(__version__.encode())
    # faces and languages say what was found; models and machines are part of the question
    aside = {package / "faces", package / "language", DATA_DIR / "models", DATA_DIR / "machines"}
    for path in sorted(package.rglob("*")):
        if (
            aside & set(path.parents)
            or not path.is_file()
            or path.suffix in (".po", ".pyc", ".nbc", ".nbi", ".md")
        ):
            continue
        found.update(f"\n{path.relative_to(package).as_posix()}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:KEY_LENGTH]


def read_grid(source: str | Path | Mapping[str, Any], profile: str | Path | None = None) -> Grid:
    """Read a grid file, or the same as a mapping.

    ``[grid]`` has ``model`` and ``machine`` and may have ``chips``, ``batch``, ``seq``, ``precision``, ``software``,
    ``objective`` and ``offload``, each a value or a list of values; every combination is a point. ``[[case]]`` is one
    more point, with a value for each key. Paths are relative to the file.

    Parameters
    ----------
    profile : path, optional
        A personal profile under which all points are asked.

    Raises
    ------
    FullmeshError
        The file cannot be read; a key or a value is unknown, missing or out of range, with file, line and key; there
        are more than ``MAX_POINTS`` points, or none.
    """
    if isinstance(source, Mapping):
        reader = _Reader(data=_plain(source), lines=None, folder=Path())
    else:
        path = Path(source)
        data, body = read_toml(path, what="the grid", error=ScenarioError, hint=_HINT)
        reader = _Reader(data=data, lines=SourceLines(path, body), folder=path.parent)
    return reader.grid(str(source) if reader.lines else "", profile)


def _plain(source: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping as TOML would have given it."""

    def plain(value: Any, depth: int) -> Any:
        if depth > 4:
            raise ScenarioError("lists and tables are nested too deep", where="grid", hint=_HINT)
        if isinstance(value, Mapping):
            return {str(k): plain(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple | range):
            return [plain(v, depth + 1) for v in value]
        return str(value) if isinstance(value, Path) else value

    data: dict[str, Any] = plain(source, 0)
    check_data(data, where="grid", error=ScenarioError, hint=_HINT)
    return data


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, allow_nan=False).encode()).hexdigest()[:KEY_LENGTH]


class _Shared:
    """Values that many points share, each once, with a digest of their content by which they are told apart."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.digests: list[str] = []
        self._by_name: dict[Any, int] = {}

    def index(self, name: Any, load: Callable[[], Any]) -> int:
        """Where the value of that name stands; loaded once, and equal ones are one."""
        if name not in self._by_name:
            value = load()
            digest = _digest(encode(value))
            if digest not in self.digests:
                self.values.append(value)
                self.digests.append(digest)
            self._by_name[name] = self.digests.index(digest)
        return self._by_name[name]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Reads the tables of one grid.

    Parameters
    ----------
    lines : SourceLines or None
        None where the grid is a mapping.
    folder : Path
        Where relative paths begin.
    """

    data: dict[str, Any]
    lines: SourceLines | None
    folder: Path
    models: _Shared = dataclasses.field(default_factory=_Shared)
    machines: _Shared = dataclasses.field(default_factory=_Shared)
    software: _Shared = dataclasses.field(default_factory=_Shared)
    size_checks: dict[int, Callable[[int], None]] = dataclasses.field(default_factory=dict)
    refusals: dict[tuple[int, int], str] = dataclasses.field(default_factory=dict)

    def grid(self, source: str, profile: str | Path | None) -> Grid:
        for key in self.data:
            if key not in _TABLES:
                raise ScenarioError(
                    f"unknown table {shown(key)}",
                    where=self._where(key),
                    hint=did_you_mean(key, list(_TABLES)),
                )
        tables = [*self._tables()]
        if not tables:
            raise ScenarioError(
                "the grid is empty", where=source or "grid", expected="[grid] or [[case]]", hint=_HINT
            )
        axes = [self._axes(place, table) for place, table in tables]
        count = sum(math.prod(map(len, found.values())) for found in axes)
        if count > MAX_POINTS:
            raise ScenarioError(
                f"the grid has {count:,} points",
                where=self._where("grid"),
                expected=f"at most {MAX_POINTS:,}",
                hint="sweep a coarser grid, or parts of it into files of their own",
            )
        personal = None if profile is None else read_personal(profile)
        common = _digest(program_digest(), None if personal is None else encode(personal))
        points: dict[str, Point] = {}
        for found in axes:
            for values in itertools.product(*(found[axis] for axis in AXES)):
                point = self._point(common, dict(zip(AXES, values, strict=True)))
                points.setdefault(point.key, point)
        inputs = Inputs(
            models=tuple(self.models.values),
            machines=tuple(self.machines.values),
            software=tuple(self.software.values),
            personal=personal,
        )
        return Grid(
            source=source, inputs=inputs, points=tuple(points.values()), num_repeated=count - len(points)
        )

    def _where(self, *place: str | int) -> str:
        if self.lines is not None:
            return self.lines.where(place)
        return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place).lstrip(".")

    def _tables(self) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
        grid, cases = self.data.get("grid"), self.data.get("case", [])
        if grid is not None:
            if not isinstance(grid, dict):
                raise ScenarioError(
                    "'grid' is no table", where=self._where("grid"), expected="[grid]", hint=_HINT
                )
            yield ("grid",), {k: v if isinstance(v, list) else [v] for k, v in grid.items()}
        if not isinstance(cases, list) or not all(isinstance(c, dict) for c in cases):
            raise ScenarioError(
                "'case' is no list of tables", where=self._where("case"), expected="[[case]]", hint=_HINT
            )
        for number, case in enumerate(cases):
            yield ("case", number), {k: [v] for k, v in case.items()}

    def _axes(self, table: tuple[str | int, ...], given: dict[str, Any]) -> dict[str, list[Any]]:
        """The values of every axis, read and checked."""
        for key in given:
            if key not in AXES:
                raise ScenarioError(
                    f"unknown key {shown(key)}",
                    where=self._where(*table, key),
                    hint=did_you_mean(key, list(AXES)),
                )
        for key in ("model", "machine"):
            if key not in given:
                raise ScenarioError(
                    f"the key {key!r} is missing",
                    where=self._where(*table),
                    expected="a model and a machine",
                    hint=_HINT,
                )
        out = {}
        for axis in AXES:
            values = items(given.get(axis, [_FALLBACK.get(axis)]), where=self._where(*table, axis))
            if not values:
                raise ScenarioError(
                    "the list is empty", where=self._where(*table, axis), expected="at least one value"
                )
            several = len(values) > 1
            out[axis] = [
                self._value(axis, value, self._where(*table, axis, *((i,) if several else ())))
                for i, value in enumerate(values)
            ]
        return out

    def _value(self, axis: str, value: Any, where: str) -> Any:
        try:
            return getattr(self, f"_{axis}")(value, where)
        except FullmeshError as error:
            inner = "" if error.where in ("", where) or error.where.startswith("--") else f" ({error.where})"
            raise type(error)(
                error.what + inner, where=where, expected=error.expected, hint=error.hint or _HINT
            ) from None

    def _path(self, value: str) -> str:
        """A file beside the grid, or a name as it is."""
        beside = self.folder / value
        is_path = value.endswith((".json", ".toml")) or value.startswith((".", "/"))
        return str(beside) if is_path else value

    def _model(self, value: Any, where: str) -> int:
        name = text(value, where=where)
        return self.models.index(name, lambda: load_model(self._path(name)))

    def _machine(self, value: Any, where: str) -> int:
        file = self._path(text(value, where=where))
        found = self.machines.index(file, lambda: load_machine(file))
        if found not in self.size_checks:
            self.size_checks[found] = size_check(file)
        return found

    def _software(self, value: Any, where: str) -> int:
        name = text(value, where=where)
        return -1 if name == DEFAULT else self.software.index(name, lambda: named_software(self._path(name)))

    def _chips(self, value: Any, where: str) -> int | None:
        if isinstance(value, str):
            if value == DEFAULT:
                return None
            raise ScenarioError(
                f"{shown(value)} is not allowed",
                where=where,
                expected=f'a whole number of devices, or "{DEFAULT}"',
            )
        return whole(value, where=where, least=1, most=MAX_DEVICES)

    def _batch(self, value: Any, where: str) -> tuple[int | None, float | None]:
        return (None, None) if value == DEFAULT else read_batch(_number_or_text(value, where))

    def _seq(self, value: Any, where: str) -> int | None:
        return None if value == DEFAULT else read_seq(_number_or_text(value, where))

    def _precision(self, value: Any, where: str) -> str:
        FIELDS["precision"].check(value, where=where)
        return str(value)

    def _objective(self, value: Any, where: str) -> str:
        if value not in OBJECTIVES:
            raise ScenarioError(
                f"unknown objective {shown(value)}",
                where=where,
                expected="one of " + ", ".join(OBJECTIVES),
                hint=did_you_mean(str(value)[:50], list(OBJECTIVES)),
            )
        return str(value)

    def _offload(self, value: Any, where: str) -> bool:
        return flag(value, where=where)

    def _point(self, common: str, values: dict[str, Any]) -> Point:
        model, machine, software = values["model"], values["machine"], values["software"]
        gbs, batch_tokens = values["batch"]
        chips = values["chips"] or self.machines.values[machine].num_devices
        asked = {
            "chips": chips,
            "gbs": gbs,
            "batch_tokens": batch_tokens,
            "seq": values["seq"] or default_seq(self.models.values[model]),
            **{axis: values[axis] for axis in ("precision", "objective", "offload")},
        }
        digests = (
            self.models.digests[model],
            self.machines.digests[machine],
            DEFAULT if software < 0 else self.software.digests[software],
        )
        key = _digest(common, *digests, *asked.values())
        refusal = self._refusal(machine, chips)
        return Point(key=key, model=model, machine=machine, software=software, refusal=refusal, **asked)

    def _refusal(self, machine: int, chips: int) -> str:
        """Why a machine cannot have a size: in a product of lists that is an answer, and no slip of the pen."""
        if (machine, chips) not in self.refusals:
            try:
                self.size_checks[machine](chips)
            except FullmeshError as error:
                self.refusals[machine, chips] = one_line(error)
            else:
                self.refusals[machine, chips] = ""
        return self.refusals[machine, chips]


def _number_or_text(value: Any, where: str) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ScenarioError(
            f"{shown(value)} is not allowed", where=where, expected="a whole number, or a text in quotes"
        )
    return value


def asked_batch(point: Point) -> str:
    """The batch of a question in words: sequences, tokens, or that it is chosen."""
    if point.batch_tokens is not None:
        return f"{point.batch_tokens:.15g} tokens"
    return DEFAULT if point.gbs is None else str(point.gbs)


def one_line(error: FullmeshError) -> str:
    """A message without the option that it names, for there is none."""
    text = f"{error.where}: {error.what}" if error.where and not error.where.startswith("-") else error.what
    return (f"{text} (expected: {error.expected})" if error.expected else text).replace("\n", " ")


def of_many(points: Sequence[Point]) -> str:
    """Points as one line of JSON, for another process."""
    return json.dumps([dataclasses.astuple(p) for p in points])


def from_line(line: str | bytes) -> list[Point]:
    """What :func:`of_many` wrote."""
    names = [f.name for f in dataclasses.fields(Point)]
    return [Point(**dict(zip(names, values, strict=True))) for values in json.loads(line)]
