"""Which layers lie on which stage: Megatron's notation, the default split, and where embedding, head and MTP stand."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.errors import PlanError
from fullmesh.plan.layout import (
    default_chunks,
    layout_by_work,
    layout_text,
    parse_layout,
    stage_layout,
)
from fullmesh.workload import MLP, Attention, Layer, ModelSpec, MoE

MIXER = Attention(num_heads=8, num_kv_heads=8, head_dim=64)
DENSE = Layer(mixer=MIXER, ffn=MLP(ffn=2048))
SPARSE = Layer(mixer=MIXER, ffn=MoE(num_experts=8, topk=2, ffn=512))


def model(num_dense: int, num_sparse: int = 0, mtp: int = 0) -> ModelSpec:
    return ModelSpec(
        id="m",
        name="M",
        hidden=512,
        vocab=1000,
        layers=(DENSE,) * num_dense + (SPARSE,) * num_sparse,
        mtp_layers=mtp,
    )


def layers_of(text: str) -> list[int]:
    return [chunk.count("t") for chunk in parse_layout(text)]


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("Et*2|(t*3|)*2tmL", ["Ett", "ttt", "ttt", "tmL"]),
        ("EttL", ["EttL"]),
        ("E|t*2|L", ["E", "tt", "L"]),
        ("Et|(tt|)*2(t|)*1tL", ["Et", "tt", "tt", "t", "tL"]),
        ("Et|((t|)*2tt|)*2L", ["Et", "t", "t", "tt", "t", "t", "tt", "L"]),
        ("Et*10|t*2L", ["E" + "t" * 10, "ttL"]),
        ("Et||tL", ["Et", "", "tL"]),
    ],
)
def test_the_notation_expands(text: str, chunks: list[str]) -> None:
    assert parse_layout(text) == chunks


def test_the_layout_of_published_deepseek_runs() -> None:
    assert layers_of("Et*4|(t*4|)*14tmL") == [4] * 15 + [1]
    assert sum(layers_of("Et*4|(t*4|)*14tmL")) == 61
    assert layers_of("Et|(tt|)*30mL") == [1] + [2] * 30 + [0]


@pytest.mark.parametrize("text", ["", "Etx|tL", "Et*|tL", "(Et|tL", "Et)|tL", "t*0", "E t|tL", "Et*-2|L"])
def test_what_cannot_be_read_is_an_error_that_shows_the_notation(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_layout(text)
    assert repr(text) in caught.value.what
    assert "E, t, m, L" in caught.value.expected


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_repeats_and_written_out_letters_say_the_same(sizes: list[int]) -> None:
    written = "|".join("t" * n for n in sizes)
    short = "|".join(f"t*{n}" if n > 1 else "t" * n for n in sizes)
    if written:
        assert parse_layout(short) == parse_layout(written)


@given(num_layers=st.integers(1, 300), num_chunks=st.integers(1, 128))
def test_the_default_split_places_every_layer_and_is_even(num_layers: int, num_chunks: int) -> None:
    if num_chunks > num_layers + 2:
        return
    chunks = default_chunks(num_layers, num_chunks)
    assert len(chunks) == num_chunks
    assert sum(chunks) == num_layers
    assert min(chunks) >= 0
    assert max(chunks) - min(chunks) <= 1


@given(num_layers=st.integers(2, 300), num_chunks=st.integers(2, 64))
def test_the_first_and_last_chunk_are_never_the_longer_ones(num_layers: int, num_chunks: int) -> None:
    if num_chunks > num_layers or num_layers % num_chunks == 0:
        return
    chunks = default_chunks(num_layers, num_chunks)
    assert chunks[-1] == min(chunks)
    longer = chunks.count(max(chunks))
    if longer < num_chunks - 1:
        assert chunks[0] == min(chunks)


def test_llama_405b_has_a_layer_less_at_both_ends() -> None:
    assert default_chunks(126, 64) == [1] + [2] * 62 + [1]
    assert default_chunks(126, 8) == [15] + [16] * 6 + [15]
    counts = stage_layout(model(126), 8, 8).counts[:, 0]
    assert counts.tolist() == [15] + [16] * 6 + [15]


def test_61_layers_leave_the_last_stage_one_less() -> None:
    assert default_chunks(61, 2) == [31, 30]


@settings(max_examples=80, deadline=None)
@given(
    num_dense=st.integers(0, 6),
    num_sparse=st.integers(1, 40),
    mtp=st.integers(0, 2),
    pp=st.integers(1, 8),
    vpp=st.integers(1, 4),
)
def test_counts_add_up_by_kind(num_dense: int, num_sparse: int, mtp: int, pp: int, vpp: int) -> None:
    spec = model(num_dense, num_sparse, mtp)
    if pp * vpp > spec.num_layers:
        return
    layout = stage_layout(spec, pp, vpp)
    by_kind = dict(zip(layout.kinds, layout.counts.sum(axis=0).tolist(), strict=True))
    assert by_kind.get(DENSE, 0) == num_dense
    assert by_kind[SPARSE] == num_sparse
    assert layout.embedding.tolist() == [1] + [0] * (pp - 1)
    assert layout.head.tolist() == [0] * (pp - 1) + [1]
    assert layout.mtp.tolist() == [0] * (pp - 1) + [mtp]
    assert layout.chunk_layers.sum() == spec.num_layers
    # chunks go round the ranks: rank r holds chunks r, r + pp, ...
    assert layout.counts.sum(axis=1).tolist() == [int(layout.chunk_layers[r::pp].sum()) for r in range(pp)]


def test_the_dense_layers_of_a_mixed_model_come_first() -> None:
    layout = stage_layout(model(3, 5), 4, 1)
    assert layout.kinds == (DENSE, SPARSE)
    assert layout.counts.tolist() == [[2, 0], [1, 1], [0, 2], [0, 2]]
    interleaved = stage_layout(model(3, 5), 2, 2)
    assert interleaved.counts.tolist() == [[2, 2], [1, 3]]


def test_a_written_layout_places_embedding_head_and_mtp() -> None:
    layout = stage_layout(model(3, 58, mtp=1), 2, 8, "Et*4|(t*4|)*14tmL")
    assert layout.counts.sum() == 61
    assert layout.counts.sum(axis=1).tolist() == [32, 29]
    assert layout.embedding.tolist() == [1, 0]
    assert layout.head.tolist() == [0, 1]
    assert layout.mtp.tolist() == [0, 1]


def test_a_layout_with_mtp_before_the_head_keeps_it_there() -> None:
    layout = stage_layout(model(4, mtp=1), 4, 1, "Ett|t|tm|L")
    assert layout.mtp.tolist() == [0, 0, 1, 0]
    assert layout.head.tolist() == [0, 0, 0, 1]


def test_a_layout_for_a_model_without_mtp_places_none() -> None:
    assert stage_layout(model(4), 2, 1, "Ett|ttmL").mtp.tolist() == [0, 0]


def test_a_layout_that_forgets_mtp_puts_it_last() -> None:
    assert stage_layout(model(4, mtp=1), 2, 1, "Ett|ttL").mtp.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "what", "expected"),
    [
        ("Ett|ttL", "2 chunks", "= 4 chunks"),
        ("Et|t|t|L", "3 layers", "4 layers"),
        ("Ett|t|t|tL", "5 layers", "4 layers"),
    ],
)
def test_a_layout_that_does_not_match_is_refused(text: str, what: str, expected: str) -> None:
    with pytest.raises(PlanError) as caught:
        stage_layout(model(4), 4, 1, text)
    assert what in caught.value.what
    assert expected in caught.value.expected


def test_more_chunks_than_layers_are_refused() -> None:
    with pytest.raises(PlanError, match="7 pipeline chunks for 4 layers"):
        stage_layout(model(4), 7, 1)


@pytest.mark.parametrize("pp", [5, 6])
def test_embedding_and_head_may_have_a_stage_of_their_own(pp: int) -> None:
    layout = stage_layout(model(4), pp, 1)
    assert layout.counts.sum() == 4
    assert (layout.counts.sum(axis=1) + layout.embedding + layout.head > 0).all()


def test_counts_follow_the_models_own_order() -> None:
    spec = dataclasses.replace(model(0), layers=(DENSE, SPARSE) * 6)
    layout = stage_layout(spec, 3, 2)
    np.testing.assert_array_equal(layout.counts, [[2, 2]] * 3)
    assert re.fullmatch(r"(2 ?)+", " ".join(map(str, layout.chunk_layers)))


@pytest.mark.parametrize("text", ["tt|ttL", "Ett|tt", "Ett|EttL", "EttL|ttL", "tt|EttL"])
def test_a_layout_has_one_embedding_and_one_head(text: str) -> None:
    with pytest.raises(PlanError):
        stage_layout(model(4), 2, 1, text)


@given(st.integers(1, 130), st.integers(2, 66), st.integers(0, 2))
def test_the_default_split_as_text_means_the_same(num_layers: int, num_chunks: int, mtp: int) -> None:
    if num_chunks > num_layers + 2:
        return
    text = layout_text(num_layers, num_chunks, mtp)
    assert layers_of(text) == default_chunks(num_layers, num_chunks)
    found = stage_layout(model(num_layers, mtp=mtp), num_chunks, 1, text)
    same = stage_layout(model(num_layers, mtp=mtp), num_chunks, 1)
    for name in ("counts", "embedding", "head", "mtp", "chunk_layers"):
        assert np.array_equal(getattr(found, name), getattr(same, name))


@given(st.lists(st.floats(0.5, 1.0), min_size=16, max_size=60), st.floats(0.0, 8.0), st.integers(2, 8))
def test_stages_of_equal_work_hold_every_layer_and_pass_their_share(
    layers: list[float], head: float, num_stages: int
) -> None:
    """Layers are lighter than the share of a stage here; a heavier one takes a stage of its own."""
    text = layout_by_work(layers, head, num_stages)
    if not text:
        return
    chunks = parse_layout(text)
    assert len(chunks) == num_stages
    assert "".join(chunks) == "E" + "t" * len(layers) + "L"
    share, position, done = (sum(layers) + head) / num_stages, 0, 0.0
    for stage, chunk in enumerate(chunks[:-1], 1):
        own = layers[position : position + chunk.count("t")]
        position += len(own)
        # the last layer of a stage is the one that passes its share
        assert done + sum(own[:-1]) <= share * stage * (1 + 1e-9)
        done += sum(own)
        assert done > share * stage * (1 - 1e-9)


def test_a_heavy_head_leaves_the_last_stage_fewer_layers() -> None:
    """32 layers of 4,096 wide and a vocabulary of 131,072 on four stages: the head weighs two and a half layers."""
    layer = 4 * 4096**2 + 3 * 14336 * 4096
    chunks = parse_layout(layout_by_work([layer] * 32, 131072 * 4096, 4))
    assert [c.count("t") for c in chunks] == [9, 9, 8, 6]
    assert chunks[0].startswith("E")
    assert chunks[-1].endswith("L")


def test_no_layout_by_work_leaves_a_stage_empty() -> None:
    assert layout_by_work([1.0] * 2, 100.0, 4) == ""
