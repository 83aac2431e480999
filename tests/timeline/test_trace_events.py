"""Traces of any size and of any kind of damage: read in pieces, within limits, with one named error."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from fullmesh.errors import TraceError
from fullmesh.timeline.trace import events as module
from fullmesh.timeline.trace.events import trace_events
from fullmesh.timeline.trace.measured import read_profile

GOOD = '{"ph": "X", "cat": "kernel", "pid": 0, "ts": 0, "dur": 1, "name": "g"'


def refused(path: Path, content: bytes | str) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TraceError) as caught:
        read_profile(path)
    text = str(caught.value)
    assert str(path) in text
    assert "hint: " in text
    assert len(text) < 1500
    return text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not JSON"),
        ("5", "not JSON"),
        ("[", "not JSON, or ends in the middle"),
        ("[" + GOOD + "}", "ends in the middle"),
        ("[" + GOOD + "},]", "not JSON"),
        ("[" + GOOD + "}] x", "more after the end"),
        ('{"traceEvents": {}}', "no list of traceEvents"),
        ('{"traceEvents": [], "traceEvents": []}', "stands twice"),
        ('{"a": 1}', "no list of traceEvents"),
        ('{"a" 1}', "not JSON"),
        ("[" + GOOD + ', "args": 7}]', "the args of an event is 7"),
        ("[" + GOOD.replace('"kernel"', "[1]") + "}]", "the cat of an event is [1]"),
        ("[" + GOOD.replace('"g"', "{}") + "}]", "the name of an event is {}"),
        ("[" + GOOD.replace('"dur": 1', '"dur": -1') + "}]", "the duration -1"),
        ("[" + GOOD.replace('"dur": 1', '"dur": 1e999') + "}]", "the duration inf"),
        ("[" + GOOD.replace('"dur": 1', '"dur": NaN') + "}]", "the duration nan"),
        ("[" + GOOD.replace('"ts": 0', '"ts": "²"') + "}]", "the time '²'"),
        ("[" + GOOD.replace('"ts": 0', '"ts": 1' + "0" * 4000) + "}]", "does not fit 64 bits"),
        ("[" + GOOD.replace('"ts": 0', '"ts": 1' + "0" * 5000) + "}]", "thousands of digits"),
        ('{"n": ' + "9" * 5000 + ', "traceEvents": []}', "thousands of digits"),
        ("[" + GOOD + ', "args": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}]", "levels deep"),
        ("[" + GOOD.replace('"X"', '"M"') + "}]", "nothing in the profile ran on a device"),
    ],
)
def test_what_is_no_trace(tmp_path: Path, text: str, what: str) -> None:
    assert what in refused(tmp_path / "trace.json", text)


def test_a_damaged_gzip_file(tmp_path: Path) -> None:
    whole = gzip.compress(json.dumps([json.loads(GOOD + "}")] * 2000).encode())
    for data in (
        whole[: len(whole) // 2],
        whole[:-2],
        whole[:50] + bytes(20) + whole[70:],
        whole[:-6] + bytes(6),
    ):
        assert "the compressed trace is damaged" in refused(tmp_path / "trace.json.gz", data)
    assert "the compressed trace is damaged" in refused(tmp_path / "trace.json.gz", b"\x1f\x8bbroken")
    assert "not UTF-8" in refused(tmp_path / "trace.json", b'[{"name": "\xff"}]')


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    for name in ("none.json", "a\0b", "n" * 300, "."):
        with pytest.raises(TraceError, match="cannot read the profile"):
            read_profile(str(tmp_path / name))


def test_a_trace_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", 7)
    wanted = [{"ph": "X", "n": i, "name": "é💥" * (i % 5), "args": {"a": [1.5, None]}} for i in range(60)]
    for text in (
        json.dumps(wanted),
        json.dumps({"a": [1, {"b": 2}], "traceEvents": wanted, "z": -12.5e3}, indent=3),
    ):
        for data in (text.encode(), b"\xef\xbb\xbf" + text.encode(), gzip.compress(text.encode())):
            path = tmp_path / "trace.json"
            path.write_bytes(data)
            assert list(trace_events(path)) == wanted


def test_what_unfolds_to_too_much_is_refused_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_UNFOLDED_BYTES", 40 << 20)
    path = tmp_path / "bomb.json.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(b"[")
        for _ in range(50):
            file.write(b" " * (1 << 20))
    tracemalloc.start()
    assert "larger than 40 MiB, unfolded" in refused(path, path.read_bytes())
    assert tracemalloc.get_traced_memory()[1] < 30 << 20
    tracemalloc.stop()
    monkeypatch.setattr(module, "MOST_EVENTS", 10)
    assert "more than 10 events" in refused(tmp_path / "many.json", "[" + ",".join(["{}"] * 11) + "]")
    monkeypatch.setattr(module, "LARGEST_EVENT_CHARS", 1000)
    monkeypatch.setattr(module, "_PIECE_BYTES", 500)
    assert "larger than" in refused(tmp_path / "long.json", '[{"name": "' + "x" * 5000 + '"}]')
