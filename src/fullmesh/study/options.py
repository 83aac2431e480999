"""What users give, read and checked in one place for every command and for Python: words and numbers in, values out."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fullmesh.catalog import Price, load_prices
from fullmesh.cost.effects import known_stacks
from fullmesh.errors import CatalogError, ScenarioError, did_you_mean
from fullmesh.machine import Machine, load_machine
from fullmesh.machine.software import load_software
from fullmesh.plan.declare import LARGEST
from fullmesh.plan.plan import FIELDS
from fullmesh.plan.software import CAPABILITIES, Software, read_software
from fullmesh.reading import is_file
from fullmesh.search import OBJECTIVES
from fullmesh.search.space import LIMITED, Limits
from fullmesh.study.sizing import BASES
from fullmesh.workload import ModelSpec
from fullmesh.workload.readers.huggingface import load_model

DEFAULT_MACHINES = ("cloudmatrix384", "gb200-nvl72", "h200")
DEFAULT_TOKENS = 1e12
# the most tokens of a run, far above any; their products with prices and times are still exact enough
_MOST_TOKENS = 1e18
_DECIMAL = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
# a sequence of 8k is one of 8,192 tokens wherever models are described
_BINARY = {"": 1, "k": 2**10, "m": 2**20}
_NUMBER = r"(\d{1,18}(?:\.\d{1,18})?(?:[eE]\+?\d{1,2})?)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The checked options of a comparison or a search.

    Parameters
    ----------
    gbs : int or None
        Global batch in sequences; None where one is to be chosen.
    batch_tokens : float or None
        Tokens that the chosen batch shall be near.
    seq : int or None
    precision, objective, basis : str
    num_tokens : float
        Of a whole training run.
    offload : bool
    software : Software or None
        What the plans are for instead of each machine's own.
    limits : Limits
        What is left of the space of plans.
    wide : bool
        Search what few plans ever use too.
    """

    gbs: int | None
    batch_tokens: float | None
    seq: int | None
    precision: str
    objective: str
    basis: str
    num_tokens: float
    offload: bool
    software: Software | None = None
    limits: Limits = dataclasses.field(default_factory=Limits)
    wide: bool = False


def read_options(
    *,
    batch: int | str | None = None,
    seq: int | str | None = None,
    precision: str = "bf16",
    objective: str = "time",
    basis: str = "units",
    tokens: float | str = DEFAULT_TOKENS,
    offload: bool = False,
    software: str | Path | Software | None = None,
    limits: Mapping[str, Any] | None = None,
    memory_margin: float | str | None = None,
    wide: bool = False,
) -> Options:
    """Check the options that commands and functions share.

    Raises
    ------
    FullmeshError
        One of them is out of range, unknown or cannot be read.
    """
    FIELDS["precision"].check(precision, where="--precision")
    for option, value, known in (("--objective", objective, OBJECTIVES), ("--basis", basis, BASES)):
        if value not in known:
            raise ScenarioError(
                f"unknown {option[2:]} {_shown(value)}",
                where=option,
                expected="one of " + ", ".join(known),
                hint=did_you_mean(str(value)[:50], list(known)),
            )
    gbs, batch_tokens = read_batch(batch)
    return Options(
        gbs=gbs,
        batch_tokens=batch_tokens,
        seq=read_seq(seq),
        precision=precision,
        objective=objective,
        basis=basis,
        num_tokens=read_tokens(tokens),
        offload=bool(offload),
        software=named_software(software),
        limits=read_limits(limits or {}, memory_margin),
        wide=bool(wide),
    )


def read_limits(given: Mapping[str, Any], memory_margin: float | str | None = None) -> Limits:
    """What a user leaves of the space of plans.

    Parameters
    ----------
    given : mapping of str to limit
        By field of a plan: a value, several (``(1, 2)`` or ``"1,2"``), or from one to another (``"4..16"``); choices by
        name, switches as ``on`` and ``off``. None says nothing.
    memory_margin : float or str, optional
        Share of the memory that a plan leaves free: ``0.1`` or ``"10%"``.

    Raises
    ------
    FullmeshError
        An axis that cannot be limited, or a value that it cannot have; the message says what it can.
    """
    values: dict[str, tuple[tuple[int, int], ...]] = {}
    for name, limit in given.items():
        if name not in LIMITED:
            raise ScenarioError(
                f"{_shown(name)} is no axis of the search",
                where="limits",
                expected="one of " + ", ".join(LIMITED),
                hint=did_you_mean(str(name)[:50], list(LIMITED)),
            )
        if limit is not None:
            values[name] = _ranges(name, limit)
    return Limits(values=values, memory_margin=_margin(memory_margin))


def _ranges(name: str, limit: object) -> tuple[tuple[int, int], ...]:
    """Ranges of the values of a field, of choices by their codes."""
    field, where = FIELDS[name], f"--{name.replace('_', '-')}"
    if isinstance(limit, str):
        parts: list[object] = [part.strip() for part in limit.split(",")]
    elif isinstance(limit, Sequence):
        parts = list(limit)
    else:
        parts = [limit]
    words = list(field.choices) if field.kind == "choice" else ["off", "on"] if field.kind == "switch" else []
    found = []
    if field.kind == "switch":
        parts = [words[int(part)] if isinstance(part, bool) else part for part in parts]
    for part in parts:
        if words:
            if part not in words:
                raise ScenarioError(
                    f"cannot read {_shown(part)} as {field.en.split(';')[0]}",
                    where=where,
                    expected="one or several of " + ", ".join(words),
                    hint=did_you_mean(str(part)[:50], words),
                )
            found.append((words.index(str(part)), words.index(str(part))))
            continue
        match = re.fullmatch(r"(\d{1,18})?(\.\.)?(\d{1,18})?", str(part), re.ASCII)
        if (
            match is None
            or isinstance(part, bool)
            or not (match[1] or match[3])
            or (match[3] and not match[2])
        ):
            raise ScenarioError(
                f"cannot read {_shown(part)} as {field.en.split(';')[0]}",
                where=where,
                expected="a number, several (1,2), or from one to another (4..16)",
            )
        low = int(match[1]) if match[1] else 0
        high = int(match[3]) if match[3] else LARGEST if match[2] else low
        for end in (match[1], match[3]):
            if end is not None:
                field.check(int(end), where=where)
        if low > high:
            raise ScenarioError(
                f"{low}..{high} holds nothing", where=where, expected="the smaller number first"
            )
        found.append((low, high))
    if not found:
        raise ScenarioError("the limit holds nothing", where=where, expected="at least one value")
    return tuple(found)


def _margin(value: float | str | None) -> float:
    """A share of the memory to leave free."""
    if value is None:
        return 0.0
    match = re.fullmatch(rf"\s*{_NUMBER}\s*(%?)\s*", str(value), re.ASCII)
    share = (
        math.nan
        if match is None or isinstance(value, bool)
        else float(match[1]) / (100.0 if match[2] else 1.0)
    )
    if not 0.0 <= share < 1.0:
        raise ScenarioError(
            f"cannot read {_shown(value)} as a share of the memory",
            where="--memory-margin",
            expected="from 0 to below 1, or per cent",
            hint="for instance 10%",
        )
    return share


def named_software(value: str | Path | Software | None) -> Software | None:
    """Software by name: an entry of the catalog, a stack of the published results, ``unknown``, or a capability file.

    Raises
    ------
    CatalogError
        The name is unknown; the message lists those that there are.
    """
    if value is None or isinstance(value, Software):
        return value
    text = str(value)
    known, stacks = load_software(), known_stacks()
    if text in known:
        return known[text]
    options = None
    if text in stacks:
        # published results are read where one of their stacks is asked for
        from fullmesh.evidence.mapping import stack_options

        options = stack_options(text)
    if options is not None:
        taken = {k: v for k, v in options.items() if k in CAPABILITIES}
        return Software(
            name=text, stack=text, label=text, families=(), vendor="", options=MappingProxyType(taken)
        )
    if text.endswith(".toml") or is_file(Path(text)):
        return read_software(Path(text), stacks)
    names = tuple(dict.fromkeys((*known, *stacks)))
    raise CatalogError(
        f"unknown software {_shown(text)}",
        where="--software",
        expected="a capability file (.toml), or one of " + ", ".join(names),
        hint=did_you_mean(text[:50], list(names)) + ' "unknown" stands for what no published result has',
    )


def read_seq(value: int | str | None) -> int | None:
    """A sequence length in tokens: ``8192``, ``"8192"`` or ``"8k"`` (1k is 1,024).

    Raises
    ------
    FullmeshError
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([+-]?\d{1,18})\s*([kKmM]?)i?\s*", value, re.ASCII)
        if match is None:
            raise ScenarioError(
                f"cannot read {_shown(value)} as a sequence length",
                where="--seq",
                expected="a number of tokens",
                hint="for instance 8192 or 8k",
            )
        value = int(match[1]) * _BINARY[match[2].lower()]
    if value is not None:
        FIELDS["seq"].check(value, where="--seq", called="sequence length")
    return value


def read_batch(value: int | str | None) -> tuple[int | None, float | None]:
    """A global batch: sequences (``512``), or tokens to be near (``"4M tokens"``, ``"4Mtok"``).

    Returns
    -------
    tuple of (int or None, float or None)
        Sequences, and tokens; both None where the batch is to be chosen.

    Raises
    ------
    FullmeshError
    """
    if isinstance(value, str):
        match = re.fullmatch(rf"\s*{_NUMBER}\s*([kKmMgGbBtT]?)i?\s*(?:tokens?|tok)\s*", value, re.ASCII)
        if match is not None:
            tokens = float(match[1]) * _DECIMAL[match[2].lower()]
            if not 1.0 <= tokens <= _MOST_TOKENS:
                raise ScenarioError(
                    f"a global batch of {tokens:g} tokens", where="--batch", expected="at least one token"
                )
            return None, tokens
        match = re.fullmatch(r"\s*([+-]?\d{1,18})\s*(?:sequences?)?\s*", value, re.ASCII)
        if match is None:
            raise ScenarioError(
                f"cannot read {_shown(value)} as a global batch",
                where="--batch",
                expected="a number of sequences, or a number of tokens with that word",
                hint='for instance 512 or "4M tokens"',
            )
        value = int(match[1])
    if value is not None:
        FIELDS["gbs"].check(value, where="--batch", called="global batch")
    return value, None


def read_tokens(value: float | str) -> float:
    """Tokens of a run: ``"15T"`` is 15e12, ``"300B"`` 300e9, ``"1e12"`` itself.

    Raises
    ------
    ScenarioError
        Not a positive number of tokens.
    """
    found = math.nan
    if isinstance(value, str):
        match = re.fullmatch(rf"\s*{_NUMBER}\s*([kKmMgGbBtT]?)\s*(?:tokens?|tok)?\s*", value, re.ASCII)
        if match is not None:
            found = float(match[1]) * _DECIMAL[match[2].lower()]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = float(value) if abs(value) <= _MOST_TOKENS else math.inf
    if not 0.0 < found <= _MOST_TOKENS:
        raise ScenarioError(
            f"cannot read {_shown(value)} as tokens",
            where="--tokens",
            expected="a positive number of tokens",
            hint="for instance 300B or 15T",
        )
    return found


def read_chips(value: int | str | Sequence[int] | None, num_machines: int) -> list[int | None]:
    """Devices of each machine: one number for all, or one for each; None leaves the size open.

    Raises
    ------
    ScenarioError
        Not that many whole numbers of at least 1.
    """
    if value is None:
        return [None] * num_machines
    several = value.split(",") if isinstance(value, str) else value
    parts: Sequence[object] = several if isinstance(several, Sequence) else [several]
    counts: list[int | None] = []
    for part in parts:
        text = str(part).strip()
        if isinstance(part, bool) or re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII) is None:
            problem = f"cannot read {_shown(value)}"
        elif int(text) < 1:
            problem = f"{text} is not allowed"
        else:
            counts.append(int(text))
            continue
        raise ScenarioError(
            problem,
            where="--chips",
            expected="whole numbers of at least 1, separated by commas",
            hint="for instance 64, or 768,72,384 for three machines",
        )
    if len(counts) == 1:
        counts *= num_machines
    if len(counts) != num_machines:
        raise ScenarioError(
            f"{len(counts)} numbers of chips for {num_machines} machines",
            where="--chips",
            expected="one number for all machines, or one for each",
            hint="separate them by commas, in the order of --on",
        )
    return counts


def read_machines(
    on: str | Machine | Sequence[str | Machine],
    chips: int | str | Sequence[int] | None = None,
    chip: str | None = None,
) -> list[Machine]:
    """Machines by name or file (several in one text with commas), with another ``chip`` if given; or as they are.

    Raises
    ------
    FullmeshError
        None is named, one is unknown or cannot have that size.
    """
    given = on.split(",") if isinstance(on, str) else [on] if isinstance(on, Machine) else on
    if not isinstance(given, Sequence) or not all(isinstance(n, str | Machine) for n in given):
        raise ScenarioError(
            f"cannot read {_shown(on)}", where="--on", expected="names of machines, or Machines"
        )
    names = [n if isinstance(n, Machine) else n.strip() for n in given]
    names = [n for n in names if n]
    if not names:
        raise ScenarioError(
            "no machine is named", where="--on", hint="name some with --on, for instance gb200-nvl72,h200"
        )
    counts = read_chips(chips, len(names))
    if chip is not None and any(isinstance(n, Machine) for n in names):
        raise ScenarioError(
            "another chip for a machine that is given as it is", where="--chip", expected="a machine by name"
        )
    return [
        (n if c is None else n.resized(c))
        if isinstance(n, Machine)
        else load_machine(n, num_devices=c, chip=chip)
        for n, c in zip(names, counts, strict=True)
    ]


def read_model(model: str | Path | ModelSpec) -> ModelSpec:
    """A model by name or file, or as it is.

    Raises
    ------
    ModelError
    """
    return model if isinstance(model, ModelSpec) else load_model(model)


def read_prices(path: str | Path | None) -> tuple[Price, ...] | None:
    """A user's price file, None for the shipped one.

    Raises
    ------
    CatalogError
    """
    return None if path is None else load_prices(path)


def _shown(value: object) -> str:
    """A value as an error repeats it."""
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."
