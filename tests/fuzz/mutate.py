"""Mutations of good inputs by a seeded generator: of bytes, lines, JSON values, table cells, options."""

from __future__ import annotations

import copy
import gzip
import json
import random
from typing import Any

WORDS = (
    "", " ", "0", "-0", "-1", "1", "2", "3.5", "1e999", "-1e999", "1e-400", "nan", "-inf", "Infinity", "²", "٣", "½",
    "1_000", "1,000", "0x10", "1.2.3", "1.2.3%", "150%", "1e9", "1000000000", "9223372036854775807",
    "18446744073709551616", "9" * 5000, "-" + "9" * 5000, "a" * 300, "a" * 70_000, "\x7f", "\t", "\r", "ａ", "💥",
    "true", "null", "[]", "{}", "=1+1", "../x", "%s%n", "'", '"', "\\", "#", ",", ";", ":", "=", "@", "/", "N/A",
    "1 GB/s", "1e999 GB/s", "-1 GB/s", "0 GB/s", "1 furlong", "GB/s", "1 s", "1e308 PB/s", "fact:x/y", "chip:", "auto",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 2.5, -2.5, 1e308, float("inf"), float("-inf"), float("nan"), 10**9, 10**18,
    10**40, 10**4200, "", "x", "a" * 300, "²", "1e999", "1 GB/s", "1e999 GB/s", [], [1], [[]], [None], ["x"] * 50, {},
    {"a": 1}, {"type": None}, {"type": [1]},
)  # fmt: skip
TOML_VALUES = (
    "0", "-1", "1", "2", "3", "1.5", "-1.5", "inf", "-inf", "nan", "1e999", "true", "false", '""', '"x"', '"²"',
    '"1 GB/s"', '"1e999 GB/s"', '"-1 GB/s"', '"0 s"', "[]", "[1]", "[[1]]", "[-1]", '["x"]', "{}", "{a = 1}",
    "1979-05-27",
    "07:32:00", "1979-05-27T07:32:00Z", "1000000000", "9223372036854775807", "9223372036854775808", "9" * 5000,
    "0x" + "f" * 5000, "'" + "a" * 300 + "'", "[" * 200 + "]" * 200, "[" * 5000 + "]" * 5000, "'''\n'''", "1__0",
    "=", "",
    '"\\u0000"', '"\\uD800"', '"all"', '"fact:h200/power"', '"chip:power"', "[" + "1," * 3000 + "]",
)  # fmt: skip


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four changes of bytes: flipped, cut, repeated, put in."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        to = min(len(out), at + rng.choice((1, 1, 2, 8, 64, 4096)))
        kind = rng.randrange(6)
        if kind == 0 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind == 1:
            del out[at:to]
        elif kind == 2:
            out[at:at] = out[at:to] * rng.choice((1, 2, 20))
        elif kind == 3:
            out[at:at] = rng.choice(WORDS).encode()
        elif kind == 4:
            del out[at:]
        else:
            out[at:at] = rng.choice((b"\x00", b"\xff", b"\xef\xbb\xbf", b"\n", b"[", b"{", b'"', b"\x1f\x8b"))
    return bytes(out)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    out = [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        out += _places(child, (*path, key))
    return out


def mutate_json(value: Any, rng: random.Random) -> bytes:
    """One to three values replaced, deleted, renamed, repeated or nested; sometimes bytes instead."""
    if rng.random() < 0.15:
        return mutate_bytes(json.dumps(value).encode(), rng)
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = rng.choice(_places(value)[1:] or [()])
        if not path:
            value = rng.choice(VALUES)
            break
        home = value
        for key in path[:-1]:
            home = home[key]
        kind = rng.randrange(7)
        if kind == 0:
            del home[path[-1]]
        elif kind == 1 and isinstance(home, dict):
            home[rng.choice(WORDS[:40])] = home.pop(path[-1])
        elif kind == 2 and isinstance(home[path[-1]], int | float):
            home[path[-1]] = home[path[-1]] * rng.choice((0, -1, 2, 0.5, 1000, 10**9))
        elif kind == 3:
            for _ in range(rng.choice((1, 2, 70))):
                home[path[-1]] = [home[path[-1]]]
        elif kind == 4 and isinstance(home, list):
            home.extend([home[path[-1]]] * rng.choice((1, 100)))
        else:
            home[path[-1]] = copy.deepcopy(rng.choice(VALUES))
    text = json.dumps(value)
    if rng.random() < 0.05:
        text = text.replace("{", '{"a": ' + "[" * 5000 + "]" * 5000 + ", ", 1)
    if rng.random() < 0.05:
        text = text.replace("{", '{"n": ' + "9" * 5000 + ", ", 1)
    if rng.random() < 0.05:
        text = text.replace("{", '{"model_type": 1, "model_type": 2, ', 1)
    return text.encode(errors="surrogatepass")


def mutate_trace(value: Any, rng: random.Random) -> bytes:
    """As JSON; sometimes compressed, and damaged after that."""
    data = mutate_json(value, rng)
    if rng.random() < 0.3:
        data = gzip.compress(data, 1)
        if rng.random() < 0.6:
            data = mutate_bytes(data, rng)
    return data


def mutate_toml(text: str, rng: random.Random) -> bytes:
    """One to three lines with another value or key, deleted, repeated, moved or put in; sometimes bytes instead."""
    if rng.random() < 0.15:
        return mutate_bytes(text.encode(), rng)
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        key, sign, value = lines[at].partition("=")
        kind = rng.randrange(8)
        if kind <= 1 and value.strip().isdecimal():
            lines[at] = (
                f"{key}= {max(0, int(value) * rng.choice((1, 2, 3, 4)) + rng.choice((-1, 0, 0, 0, 1)))}"
            )
        elif kind <= 3 and sign:
            lines[at] = f"{key}= {rng.choice(TOML_VALUES)}"
        elif kind == 4:
            del lines[at]
        elif kind == 5:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif kind == 6:
            lines[at] = rng.choice(WORDS[:60]).replace("\n", " ") + lines[at]
        else:
            lines.insert(
                at, rng.choice(("[x]", "[[x]]", "x = 1", "[plan]", "[[layer]]", "[[tier]]", "a.b.c = 1"))
            )
        if not lines:
            break
    return "\n".join(lines).encode() + b"\n"


def mutate_csv(text: str, rng: random.Random) -> bytes:
    """One to three cells, columns or rows changed; sometimes bytes instead."""
    if rng.random() < 0.15:
        return mutate_bytes(text.encode(), rng)
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        y = rng.randrange(len(rows))
        x = rng.randrange(len(rows[y])) if rows[y] else 0
        kind = rng.randrange(8)
        if kind <= 3 and rows[y]:
            rows[y][x] = rng.choice(WORDS)
        elif kind == 4:
            del rows[y][x : x + 1]
        elif kind == 5:
            rows.insert(rng.randrange(len(rows) + 1), list(rows[y]))
        elif kind == 6 and len(rows) > 1:
            del rows[y]
        else:
            for row in rows:
                row.insert(min(x, len(row)), rng.choice(WORDS[:20]))
    return "\n".join(",".join(r) for r in rows).encode(errors="surrogatepass") + b"\n"


def mutate_word(word: str, rng: random.Random) -> str:
    """An option's value: another one, or the good one damaged; without what no command line can carry."""
    kind = rng.randrange(5)
    if kind <= 1:
        out = rng.choice(WORDS)
    elif kind == 2 and word:
        at = rng.randrange(len(word))
        out = word[:at] + rng.choice(WORDS) + word[at + rng.randint(0, 1) :]
    elif kind == 3:
        out = rng.choice((",", ":", "=", "@", "-")).join([word] * rng.choice((2, 3, 40)))
    else:
        out = "".join(rng.choice("0123456789.,:=@%-eE²xAa/ ") for _ in range(rng.randint(1, 12)))
    return out.replace("\0", "")
