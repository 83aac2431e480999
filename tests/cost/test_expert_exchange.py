"""Expert dispatch and combine: who is hit, what is sent once, what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.cost.collectives.algorithms import collective_s, expert_all_to_all_s
from fullmesh.cost.collectives.experts import DISPATCHERS, expected_hit
from fullmesh.errors import PlanError
from fullmesh.machine import load_machine

MACHINES = ("dgx-a100", "h800-cluster", "dgx-b200", "gb200-nvl72", "cloudmatrix384", "atlas-800t-a2")
MODEL = {"num_experts": 256}


def both(name: str, tokens: float, ep: object, **more: object) -> np.ndarray:
    keep = {**MODEL, **more}
    return np.array(expert_all_to_all_s(load_machine(name), tokens, 7392, 14336, 8, ep, **keep))  # type: ignore[arg-type]


@pytest.mark.parametrize(("groups", "experts", "topk"), [(4, 8, 3), (2, 6, 2), (3, 9, 4), (5, 5, 2)])
def test_expected_hits_equal_enumeration(groups, experts, topk):
    size = experts // groups
    draws = list(itertools.combinations(range(experts), topk))
    mean = np.mean([len({e // size for e in draw}) for draw in draws])
    assert expected_hit(groups, experts, topk) == pytest.approx(mean)


@given(
    groups=st.sampled_from([1, 2, 4, 8, 16, 64]),
    experts=st.sampled_from([64, 128, 256]),
    topk=st.integers(1, 12),
)
def test_hits_lie_between_one_and_what_there_is(groups, experts, topk):
    hit = float(expected_hit(groups, experts, topk))
    assert 1 - 1e-9 <= hit <= min(groups, topk) + 1e-9


def test_one_rank_takes_no_time():
    for name in MACHINES:
        for dispatcher in DISPATCHERS:
            assert (both(name, 4096, 1, dispatcher=dispatcher) == 0).all()


def test_plain_all_to_all_sends_every_copy():
    m = load_machine("dgx-h100")
    dispatch, combine = expert_all_to_all_s(m, 4096, 7392, 14336, 8, [8, 16], num_experts=256)
    for found, width in ((dispatch, 7392), (combine, 14336)):
        every = collective_s(m, "all_to_all", 4096 * 8 * width, [8, 16])
        assert (found >= every).all()
        np.testing.assert_allclose(found, every, rtol=0.1)


def test_a_plain_exchange_is_no_faster_than_the_measured_ones():
    """Published exchanges of a CloudMatrix 384 send each token once to a rank; a plain one sends every copy."""
    for ep in (8, 16, 32, 64, 128):
        plain, measured = (
            both("cloudmatrix384", 4096, ep),
            both("cloudmatrix384", 4096, ep, dispatcher="deepep"),
        )
        assert (plain >= measured).all(), ep


def test_sending_once_per_node_beats_sending_every_copy_between_nodes():
    for ep in (16, 32, 64):
        once = both("dgx-h100", 8192, ep, dispatcher="deepep").sum()
        copies = both("dgx-h100", 8192, ep).sum()
        assert once < 0.8 * copies


def test_fewer_nodes_per_token_take_less_time():
    free = both("h800-cluster", 4096, 64, dispatcher="deepep")
    limited = both("h800-cluster", 4096, 64, dispatcher="deepep", node_limit=4)
    assert (limited < free).all()
    same = both("h800-cluster", 4096, 32, dispatcher="deepep", node_limit=4)
    np.testing.assert_allclose(same, both("h800-cluster", 4096, 32, dispatcher="deepep"))


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(MACHINES),
    dispatcher=st.sampled_from(DISPATCHERS),
    tokens=st.floats(1, 2e5),
    more=st.floats(1, 8),
    log_ep=st.integers(1, 6),
    topk=st.integers(1, 8),
)
def test_more_tokens_never_take_less_time(name, dispatcher, tokens, more, log_ep, topk):
    m = load_machine(name)
    arguments = ([tokens, tokens * more], 7392, 14336, topk, 2**log_ep)
    for seconds in expert_all_to_all_s(m, *arguments, num_experts=256, dispatcher=dispatcher):
        assert 0 < seconds[0] <= seconds[1] * (1 + 1e-12)


def test_a_larger_domain_keeps_the_exchange_off_the_cards():
    rack = both("gb200-nvl72", 8192, 64, dispatcher="hybridep").sum()
    nodes = both("dgx-b200", 8192, 64, dispatcher="hybridep").sum()
    assert nodes > 3 * rack


def test_bad_arguments_are_refused():
    with pytest.raises(PlanError, match="dispatcher"):
        both("dgx-h100", 1, 8, dispatcher="carrier-pigeon")
    with pytest.raises(PlanError, match="at least"):
        both("dgx-h100", -1, 8)
    with pytest.raises(PlanError, match="at least"):
        both("dgx-h100", 1, 0, dispatcher="deepep")
