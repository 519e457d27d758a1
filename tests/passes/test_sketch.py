"""sketch: one token of each stratum, and inner products that are right on average."""

from __future__ import annotations

import pytest
import torch
from capture import count_ops, zoo_capture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rfc_compile.passes.state.ring_storage import storage_for
from rfc_compile.passes.state.token_sketch import (
    can_sketch,
    relative_error,
    sketched,
    strata_of,
)

SEEDS = 400


def values(seed: int, tokens: int, spread: float) -> Tensor:
    """Tokens of very different lengths, shape (2, tokens, 4)."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randn(2, tokens, 1, generator=generator).mul(spread).exp()
    return sizes * torch.randn(2, tokens, 4, generator=generator)


@settings(deadline=None, max_examples=40)
@given(tokens=st.integers(2, 70), n=st.integers(2, 20), seed=st.integers(0, 999))
def test_one_token_of_each_stratum(tokens: int, n: int, seed: int) -> None:
    if n >= tokens:
        assert not can_sketch(torch.empty(2, tokens, 4), n)
        return
    index = torch.arange(1.0, tokens + 1).reshape(1, -1, 1)
    found = sketched(index, n, seed).flatten()
    assert len(found) == strata_of(tokens, n) == len(range(0, tokens, n))
    for stratum, weighted in enumerate(found.tolist()):
        members = range(stratum * n, min(tokens, stratum * n + n))
        taken = round(weighted / (len(members) / n) ** 0.5) - 1
        assert taken in members


@pytest.mark.parametrize(("tokens", "n"), [(64, 4), (65, 4), (67, 4), (30, 16), (7, 5)])
def test_the_squared_norm_is_right_on_average(tokens: int, n: int) -> None:
    """Over many hashes, within four standard errors; unequal strata included."""
    value = values(1, tokens, 1.0)
    other = values(2, tokens, 1.0) + 0.5 * value
    for a, b in ((value, value), (value, other)):
        parts = [
            n * (sketched(a, n, seed) * sketched(b, n, seed)).sum((1, 2))
            for seed in range(SEEDS)
        ]
        found = torch.stack(parts)
        error = found.std(0) / SEEDS**0.5
        assert torch.all((found.mean(0) - (a * b).sum((1, 2))).abs() < 4 * error)


def test_the_error_is_what_it_is_said_to_be() -> None:
    """The norms' scatter over many hashes, where strata are alike."""
    n, value = 4, values(3, 256, 0.3)
    norms = torch.stack(
        [sketched(value, n, seed).norm(dim=(1, 2)) for seed in range(SEEDS)]
    )
    scatter = norms.std(0) / norms.mean(0)
    told = [relative_error(sketched(value, n, seed), n) for seed in range(50)]
    torch.testing.assert_close(torch.stack(told).mean(0), scatter, rtol=0.25, atol=0)
    assert torch.equal(relative_error(torch.zeros(2, 5, 3), 4), torch.zeros(2))


def test_what_is_no_sequence_stays_whole() -> None:
    for value in (torch.ones(8, 9), torch.ones(2, 4, 3), torch.ones(2, 9, 3).long()):
        assert storage_for(value, 3, None, 4).sketch == 1
    assert storage_for(torch.ones(2, 5, 3), 0, None, 4).sketch == 1
    assert storage_for(torch.ones(2, 5, 3), 1, None, 4).sketch == 4


def test_all_tokens_leave_the_graph_as_it_is() -> None:
    usual, same = zoo_capture("MatmulBlock"), zoo_capture("MatmulBlock", input_sketch=1)
    for name, graph in usual.stages.items():
        assert graph.code == same.stages[name].code
    assert not same.layout.sketches


def test_cached_steps_look_at_the_rows_they_need() -> None:
    """Rows that are kept have the kept shape; no op of a region is left."""
    whole, part = zoo_capture("MatmulBlock"), zoo_capture("MatmulBlock", input_sketch=3)
    assert whole.whole is not None
    assert part.whole is not None
    lengths = {
        r.name: r.example.shape[1] for r in part.layout.rings if "input" in r.name
    }
    assert sorted(set(lengths.values())) == [2, 6]
    assert list(lengths.values()).count(6) == 1, "the watched input stays whole"
    assert len(part.layout.sketches) == len(lengths) - 1
    cached, before = (count_ops(c.whole.cached.gm) for c in (part, whole))
    assert cached[0] == before[0]
    assert cached[1]["aten.index_select.default"] == len(lengths) - 1
