"""The table of published results: read strictly, and a model for every row."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.errors import ModelError, ResultsError
from fullmesh.evidence.results import (
    COLUMNS,
    SHIPPED_RESULTS,
    ResultRow,
    read_results,
    row_model,
)
from fullmesh.workload import MLP, Attention, LatentAttention, Mamba2, MoE
from fullmesh.workload.parameters import parameter_counts
from fullmesh.workload.readers.huggingface import load_model

ROWS = read_results()
BY_ID = {row.id: row for row in ROWS}

MINIMAL = {
    "id": "X1",
    "tier": "A",
    "phase": "pretrain",
    "gpu": "H100",
    "n_gpus": "8",
    "model": "Llama-3-8B",
    "seq": "4096",
    "gbs": "64",
    "step_s": "1.5",
}


def table(*rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({**MINIMAL, **row})
    return out.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], tuple[ResultRow, ...]]:
    def reader(text: str) -> tuple[ResultRow, ...]:
        path = tmp_path / "results.csv"
        path.write_text(text, "utf-8")
        return read_results(path)

    return reader


def make(**fields: str) -> ResultRow:
    """One row, from its columns, without a file."""
    from fullmesh.evidence.results import _row

    return _row({c: {**MINIMAL, **fields}.get(c, "") for c in COLUMNS}, 2, "table.csv, line 2")


def test_shipped_table_is_whole() -> None:
    assert len(ROWS) == 795 + 118
    assert len({row.id for row in ROWS}) == 795 + 118
    headline = [r for r in ROWS if r.tier in "AB" and r.phase == "pretrain"]
    assert len(headline) == 647 + 87
    with SHIPPED_RESULTS[0].open(encoding="utf-8", newline="") as file:
        assert set(COLUMNS) - {"machine"} <= set(next(csv.reader(file)))


def test_shipped_table_names_no_local_path() -> None:
    text = "".join(file.read_text("utf-8") for file in SHIPPED_RESULTS)
    assert not re.search(r"(?<![\w.])/(?:work|tmp|root|home|mnt)/", text)


def test_typed_values() -> None:
    row = BY_ID["NV001"]
    assert isinstance(row.n_gpus, int)
    assert isinstance(row.step_s, float)
    assert isinstance(row.vpp, str)
    assert row.line == 2
    assert sum(r.step_s is not None for r in ROWS) == 795 - 132 + 118


def test_every_row_has_a_model() -> None:
    models = {row.id: row_model(row) for row in ROWS}
    assert len(models) == len(ROWS)
    for row in ROWS:
        model = models[row.id]
        for given_value, built in (
            (row.layers, model.num_layers),
            (row.hidden, model.hidden),
            (row.vocab, model.vocab),
        ):
            assert given_value in (None, built), row.id
        mixers = [layer.mixer for layer in model.layers if isinstance(layer.mixer, Attention)]
        if mixers:
            assert row.heads in (None, mixers[0].num_heads), row.id
            assert row.kv_heads in (None, mixers[0].num_kv_heads), row.id
        experts = [layer.ffn for layer in model.layers if isinstance(layer.ffn, MoE)]
        if row.experts:
            assert experts, row.id
            assert (row.experts, row.topk) == (experts[0].num_experts, experts[0].topk)
        if row.dense_layers:
            assert all(isinstance(layer.ffn, MLP) for layer in model.layers[: row.dense_layers])


def test_equal_rows_share_one_model() -> None:
    """Grouping rows by model depends on it."""
    models = {row_model(r) for r in ROWS if r.model == "Llama-3-70B" and r.layers == 80}
    assert len(models) == 1


def test_counts_that_the_table_prints() -> None:
    checked = 0
    for row in ROWS:
        printed = re.search(r"params (\d+)", row.arch_note)
        if printed:
            assert parameter_counts(row_model(row)).total == int(printed.group(1)), row.id
            checked += 1
    assert checked == 68


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama2_7b", "llama-2-7b"),
        ("LLaMA2-7B", "llama-2-7b"),
        ("llama3_70b", "llama-3-70b"),
        ("llama2_70b_64p", "llama-2-70b"),
        ("codellama_34b_32p", "codellama-34b"),
        ("glm3_6b_32k", "chatglm3-6b"),
        ("Mixtral-8x22B (C)", "mixtral-8x22b"),
        ("deepseek2-236b", "deepseek-v2"),
        ("deepseek1.5-7b", "deepseek-7b"),
        ("InternLM_7B", "internlm-7b"),
        ("GLM4-9B", "glm-4-9b"),
        ("GPT-175B (MegaScale)", "gpt-175b-megascale"),
        ("MT-NLG-530B", "gpt-530b"),
        ("Qwen2.5-7B", "qwen2-7b"),
    ],
)
def test_names_as_tables_print_them(name: str, expected: str) -> None:
    assert row_model(make(model=name)).id == expected


def test_columns_override_the_named_model() -> None:
    model = row_model(make(model="Llama-3.1-405B", layers="4", kv_heads="16", vocab="1024"))
    assert (model.num_layers, model.vocab, model.hidden) == (4, 1024, 16384)
    mixer = model.layers[0].mixer
    assert isinstance(mixer, Attention)
    assert (mixer.num_heads, mixer.num_kv_heads, mixer.head_dim) == (128, 16, 128)


def test_truncated_moe_with_fewer_dense_layers() -> None:
    model = row_model(make(model="DeepSeek-V3", layers="4", dense_layers="1"))
    assert [isinstance(layer.ffn, MoE) for layer in model.layers] == [False, True, True, True]
    assert model.layers[0].ffn == MLP(ffn=18432)


def test_more_layers_go_on_behind_the_dense_ones() -> None:
    model = row_model(make(model="DeepSeek-V3", layers="70"))
    assert model.num_layers == 70
    assert all(isinstance(layer.ffn, MoE) for layer in model.layers[61:])


def test_truncated_hybrid_takes_the_first_of_the_pattern() -> None:
    full = load_model("nemotron-3-nano-30b-a3b")
    assert row_model(make(model="Nemotron-3-Nano-30B-A3B", layers="7")).layers == full.layers[:7]


def test_latent_head_dimensions_and_shared_width() -> None:
    row = make(model="DeepSeek-V2", head_dim="qk64+32rope/v64", shared_experts="shared ffn 3072")
    mixer = row_model(row).layers[1].mixer
    assert isinstance(mixer, LatentAttention)
    assert (mixer.qk_nope_dim, mixer.qk_rope_dim, mixer.v_dim) == (64, 32, 64)
    ffn = row_model(row).layers[1].ffn
    assert isinstance(ffn, MoE)
    assert ffn.shared_ffn == 3072
    none = row_model(make(model="DeepSeek-V2", shared_experts="0")).layers[1].ffn
    assert isinstance(none, MoE)
    assert none.shared_ffn == 0


def test_learned_positions_follow_the_sequence() -> None:
    assert row_model(make(model="MPT-7B", seq="8192")).learned_positions == 8192
    assert row_model(make(model="Llama-3-8B", seq="8192")).learned_positions == 0


def test_mtp_of_the_row_then_of_the_software_else_none() -> None:
    bridge = {"model": "DeepSeek-V3", "source": "NeMo/Megatron-Bridge performance summary 26.02"}
    assert row_model(make(model="DeepSeek-V3")).mtp_layers == 0
    assert row_model(make(**bridge)).mtp_layers == 1
    assert row_model(make(**bridge, mtp_layers="0")).mtp_layers == 0
    assert row_model(make(model="DeepSeek-V3", mtp_layers="2")).mtp_layers == 2


UNNAMED = {"model": "Foo-9B", "layers": "12", "hidden": "1024", "heads": "8", "seq": "2048"}


def test_unknown_gpt_like_model() -> None:
    model = row_model(make(**UNNAMED, ffn="4096"))
    assert model.layers[0].ffn == MLP(ffn=4096, gated=False, bias=True)
    assert (model.norm, model.learned_positions, model.vocab) == ("layernorm", 2048, 51200)
    assert "assumed" in model.source


def test_unknown_llama_like_model() -> None:
    for fields in ({"ffn": "4096", "kv_heads": "2"}, {"ffn": "2816"}):
        model = row_model(make(**UNNAMED, **fields))
        assert model.layers[0].ffn == MLP(ffn=int(fields["ffn"]))
        assert model.norm == "rmsnorm"


def test_unknown_moe_with_latent_attention() -> None:
    model = row_model(
        make(
            **UNNAMED,
            head_dim="qk128+64rope/v128",
            arch_note="MLA q_lora1536 kv_lora512",
            ffn="4096",
            experts="16",
            topk="4",
            moe_ffn="512",
            shared_experts="2",
            dense_layers="3",
            vocab="1000",
        )
    )
    mixer = model.layers[0].mixer
    assert isinstance(mixer, LatentAttention)
    assert (mixer.q_lora_rank, mixer.kv_lora_rank) == (1536, 512)
    assert [isinstance(layer.ffn, MoE) for layer in model.layers[:4]] == [False, False, False, True]
    assert model.layers[3].ffn == MoE(num_experts=16, topk=4, ffn=512, shared_ffn=1024)
    assert "assumed" not in model.source


def test_unknown_hybrid_from_its_note() -> None:
    note = "hybrid pattern MEM*E (M=mamba2,E=MoE,*=attn); shared ffn 256; mamba heads 16x64 state128"
    model = row_model(
        make(**{**UNNAMED, "layers": "5"}, experts="8", topk="2", moe_ffn="128", vocab="1000", arch_note=note)
    )
    assert [type(layer.mixer) for layer in model.layers] == [
        Mamba2,
        type(None),
        Mamba2,
        Attention,
        type(None),
    ]
    ffn = model.layers[1].ffn
    assert isinstance(ffn, MoE)
    assert (ffn.shared_ffn, ffn.gated) == (256, False)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"model": "Foo"}, "hidden"),
        ({"model": "Foo", "layers": "2", "hidden": "64"}, "heads"),
        ({"model": "Foo", "layers": "2", "hidden": "64", "heads": "4"}, "ffn"),
        ({"model": "Foo", "layers": "2", "hidden": "64", "heads": "5", "ffn": "256"}, "divide"),
        ({"model": "Foo", "layers": "2", "hidden": "64", "heads": "4", "ffn": "8", "experts": "4"}, "topk"),
        ({**UNNAMED, "ffn": "99", "head_dim": "qk1+1rope/v1"}, "compressed width"),
        ({**UNNAMED, "ffn": "99", "head_dim": "MLA"}, "latent attention"),
        ({**UNNAMED, "ffn": "99", "head_dim": "wide"}, "head dimension"),
        ({"model": "Llama-3-8B", "heads": "7"}, "divide"),
        ({"model": "Llama-3-8B", "kv_heads": "5"}, "divide"),
        ({"model": "DeepSeek-V3", "topk": "999"}, "experts a token"),
        ({**UNNAMED, "ffn": "99", "experts": "4", "topk": "5"}, "experts a token"),
        ({"model": "DeepSeek-V3", "shared_experts": "some"}, "shared experts"),
    ],
)
def test_impossible_rows_say_what_is_missing(fields: dict[str, str], word: str) -> None:
    with pytest.raises(ModelError, match=word) as caught:
        row_model(make(**fields))
    assert "X1" in caught.value.where


def test_width_as_multiple_of_the_hidden_size() -> None:
    row = make(model="TeleChat2_7b", ffn="8h/3", hidden="3072")
    assert row.ffn is None
    assert row_model(row).layers[0].ffn.ffn == 8192  # type: ignore[union-attr]


@pytest.mark.parametrize("column", ["model", "gpu"])
def test_missing_column(column: str, read: Callable[[str], tuple[ResultRow, ...]]) -> None:
    with pytest.raises(ResultsError, match=re.escape(repr(column))):
        read(table({}, columns=tuple(c for c in COLUMNS if c not in (column, "machine"))))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("step_s", "-1"),
        ("step_s", "0"),
        ("step_s", "fast"),
        ("step_s", "nan"),
        ("step_s", "inf"),
        ("step_s", "1_000"),
        ("n_gpus", "8.5"),
        ("n_gpus", "-8"),
        ("n_gpus", "0"),
        ("n_gpus", "-inf"),
        ("layers", "many"),
        ("TP", "-1"),
        ("mem_allocated_gib", "-3"),
        ("ffn", "h8"),
        ("tier", "D"),
        ("model", " "),
        ("gpu", ""),
    ],
)
def test_bad_values_name_line_and_column(
    column: str, value: str, read: Callable[[str], tuple[ResultRow, ...]]
) -> None:
    with pytest.raises(ResultsError) as caught:
        read(table({}, {"id": "X2", column: value}))
    assert "line 3" in caught.value.where
    assert f"column {column}" in caught.value.where


@pytest.mark.parametrize(
    "text",
    [
        "",
        "id,tier\n",
        table(),
        table({}, {}),
        table({}) + "short,row\n",
        table({}) + '"never closed',
        table({}).replace("H100", "H1\x0000"),
        "id," + table({}),
    ],
)
def test_corrupt_tables(text: str, read: Callable[[str], tuple[ResultRow, ...]]) -> None:
    with pytest.raises(ResultsError) as caught:
        read(text)
    assert "results.csv" in caught.value.where


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ResultsError):
        read_results(tmp_path / "none.csv")
    with pytest.raises(ResultsError):
        read_results(tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ResultsError):
        read_results(tmp_path / "binary.csv")


def test_harmless_differences(read: Callable[[str], tuple[ResultRow, ...]]) -> None:
    """A byte-order mark, other line ends, an empty line at the end, whole floats and further columns."""
    (row,) = read("\ufeff" + table({"n_gpus": "8.0", "own": "1"}, columns=(*COLUMNS, "own")) + "\r\n")
    assert row.n_gpus == 8
    (same,) = read(table({}).replace("\r\n", "\n"))
    assert dataclasses.replace(row, line=0) == dataclasses.replace(same, line=0)


@given(
    st.dictionaries(
        st.sampled_from(
            sorted({"layers", "hidden", "heads", "kv_heads", "ffn", "experts", "topk", "moe_ffn"})
        ),
        st.integers(1, 64).map(str),
    ),
    st.sampled_from(["Llama-3-8B", "DeepSeek-V3", "Mixtral-8x7B", "GPT3-175B", "Unknown-1B", "Qwen3.8-27B"]),
)
@settings(deadline=None, max_examples=150)
def test_any_sizes_give_a_model_or_a_named_error(fields: dict[str, str], name: str) -> None:
    try:
        model = row_model(make(model=name, **fields))
    except ModelError as error:
        where = error.where
        assert where
        return
    counts = parameter_counts(model)
    assert 0 < counts.active <= counts.total
    assert sum(counts.by_part().values()) == counts.total
    if "layers" in fields:
        assert model.num_layers == int(fields["layers"])


@given(st.lists(st.sampled_from(ROWS), min_size=1, max_size=5, unique_by=lambda r: r.id))
@settings(deadline=None, max_examples=20)
def test_round_trip_of_rows(tmp_path_factory: pytest.TempPathFactory, rows: list[ResultRow]) -> None:
    raw: dict[str, dict[str, str]] = {}
    for shipped in SHIPPED_RESULTS:
        with shipped.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            raw |= {r["id"]: r for r in reader}
    path = tmp_path_factory.mktemp("table") / "some.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, reader.fieldnames or ())
        writer.writeheader()
        writer.writerows(raw[row.id] for row in rows)
    again = read_results(path)
    assert [dataclasses.replace(r, line=0) for r in again] == [dataclasses.replace(r, line=0) for r in rows]
