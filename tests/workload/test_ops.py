"""The operator table: one account of a model's work, from which parameters, operations and memory follow."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.cost.components import C
from fullmesh.cost.stages import stage_table
from fullmesh.errors import ModelError
from fullmesh.machine import load_machine
from fullmesh.plan import Plan, Plans
from fullmesh.plan.shard import Shard
from fullmesh.workload import Layer, ModelSpec
from fullmesh.workload.flops import model_flop_per_token
from fullmesh.workload.ops import Element, GroupedProduct, Product, Tokens, shared, split, whole
from fullmesh.workload.parameters import parameter_counts
from fullmesh.workload.readers import shipped
from fullmesh.workload.readers.huggingface import load_model
from fullmesh.workload.table import OperatorTable, operator_table
from strategies.models import layers, models

# weights of several sizes that no token is multiplied by
NO_MATRICES = ("conv", "decay", "decay_skip_step", "decay_step", "qk_norm", "index_norm")


def forward_flop(table: OperatorTable) -> float:
    rows = zip(table.count, table.flop, table.phase, strict=True)
    return sum(count * flop for count, flop, phase in rows if phase == "forward")


@given(layers, st.integers(1, 64))
@settings(deadline=None, max_examples=200)
def test_products_use_each_matrix_once(layer: Layer, hidden: int) -> None:
    """What a layer multiplies by is what it holds: two lists that are written apart."""
    model = ModelSpec(id="m", name="m", hidden=hidden, vocab=7, layers=(layer,))
    held = sum(
        w.count
        for w in layer.weights(hidden, "rmsnorm", sandwich=False)
        if len(w.shape) >= 2 and w.name.rsplit(".")[-1] not in NO_MATRICES
        and not w.name.endswith("bias")
    )  # fmt: skip
    used = 0.0
    for block in model.blocks(layer):
        for op in block.operators:
            if isinstance(op, Product):
                used += op.rows_per_token * op.n.total * op.k.total
            elif isinstance(op, GroupedProduct):
                used += op.num_experts * op.n.total * op.k.total
    assert used == pytest.approx(held)


@given(models, st.integers(1, 3), st.integers(1, 512))
@settings(deadline=None, max_examples=60)
def test_the_table_adds_up_to_the_model(model: ModelSpec, batch: int, seq: int) -> None:
    table = operator_table(model, batch=batch, seq=seq)
    tokens = batch * seq
    forward = forward_flop(table)
    assert forward == pytest.approx(tokens * model_flop_per_token(model, seq), rel=1e-12)
    updated = sum(
        c * s[0] for c, s, k in zip(table.count, table.shape, table.kind, strict=True) if k == "optimizer"
    )
    assert updated == parameter_counts(model).total
    assert all(
        b >= 0 for column in (table.read_bytes, table.written_bytes, table.saved_bytes) for b in column
    )


@pytest.mark.parametrize("name", ["llama-3-8b", "deepseek-v3", "nemotron-h-8b", "qwen3-next-80b-a3b"])
def test_the_table_is_what_is_priced(name: str) -> None:
    model = load_model(name, mtp_layers=1 if name == "deepseek-v3" else None)
    stages = stage_table(model, load_machine("h200", num_devices=8), Plans.of([Plan(seq=2048)]))
    table = operator_table(model, seq=2048)
    assert stages.sum(stages.components[:, C.FLOP_F])[0] == pytest.approx(forward_flop(table), rel=1e-12)


def test_backward_products_have_the_shapes_of_their_operands() -> None:
    table = operator_table(load_model("llama-3-8b"), seq=4096)
    shapes = {
        phase: shape
        for name, phase, shape in zip(table.name, table.phase, table.shape, strict=True)
        if name == "mlp.down"
    }
    assert shapes == {
        "forward": (4096, 4096, 14336),
        "backward by input": (4096, 14336, 4096),
        "backward by weight": (14336, 4096, 4096),
    }


def test_every_layer_of_every_shipped_model_stands_in_the_table() -> None:
    for entry in shipped.all_models():
        model = load_model(entry.id)
        table = operator_table(model)
        numbered = {
            (where, n) for where, n in zip(table.layers, table.count, strict=True) if where[0].isdigit()
        }
        assert sum(n for _, n in numbered) == model.num_layers, entry.id


def test_a_saved_table_is_read_back_the_same(tmp_path: Path) -> None:
    table = operator_table(load_model("deepseek-v3", mtp_layers=1), batch=2)
    table.save(tmp_path / "ops.csv")
    assert OperatorTable.load(tmp_path / "ops.csv") == table


@pytest.mark.parametrize("text", ["", "layers,count\n", "not a table"])
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "ops.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="operator table"):
        OperatorTable.load(tmp_path / "ops.csv")


def test_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ops.csv"
    operator_table(load_model("llama-3-8b")).save(path)
    path.write_text(
        path.read_text(encoding="utf-8").replace("embedding,1,", "embedding,one,", 1), encoding="utf-8"
    )
    with pytest.raises(ModelError, match="cannot read"):
        OperatorTable.load(path)


def test_widths_are_divided_each_in_its_own_way() -> None:
    shard = Shard(Plans.of([Plan(tp=1), Plan(tp=4), Plan(tp=16)]))
    width = split(32, 128) + shared(8, 128) * 2.0 + whole(5)
    assert width.total == 32 * 128 + 2 * 8 * 128 + 5
    np.testing.assert_allclose(
        shard.width(width), [width.total, 8 * 128 + 2 * 2 * 128 + 5, 2 * 128 + 2 * 128 + 5]
    )


def test_tokens_of_a_rank() -> None:
    plans = [
        Plan(tp=4, cp=2, mbs=2, seq=4096),
        Plan(tp=4, seq=4096, sequence_parallel=False),
        Plan(tp=4, etp=2),
    ]
    shard = Shard(Plans.of(plans))
    assert shard.tokens(Tokens.STREAM).tolist() == [4096, 4096, 4096]
    assert shard.tokens(Tokens.LOCAL).tolist() == [1024, 4096, 1024]
    assert shard.tokens(Tokens.ONCE).tolist() == [1024, 1024, 1024]
    assert shard.tokens(Tokens.ROUTED).tolist() == [1024, 1024, 2048]


def test_a_saved_tensor_goes_with_any_of_its_modules() -> None:
    model = load_model("mixtral-8x7b")
    saved = {s.name: s for s in model.saved(model.layers[0])}
    modules = [(), ("moe_act",), ("moe",), ("core_attn",)]
    shard = Shard(
        Plans.of([Plan(recompute="selective", recompute_modules=m) if m else Plan() for m in modules])
    )
    assert shard.keeps(saved["experts.activation"]).tolist() == [True, False, False, True]
    assert shard.keeps(saved["experts.input"]).tolist() == [True, True, False, True]
    assert saved["experts.activation"].element is Element.INPUT


def test_a_kind_of_layer_says_all_of_itself() -> None:
    """Nothing outside a kind's own file asks which kind it is to count its parameters, work or memory."""
    model = load_model("qwen3-next-80b-a3b")
    wider = dataclasses.replace(model, hidden=2 * model.hidden)
    for layer in model.kinds:
        for part in layer.parts:
            assert sum(w.count for w in part.weights(wider.hidden)) > sum(
                w.count for w in part.weights(model.hidden)
            )
