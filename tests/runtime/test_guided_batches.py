"""Guidance in one batch that the forward makes itself, mixed by the caller."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from denoising import compiled
from models import build, timesteps, tokens
from original_forms import Doubled
from torch import Tensor

import rfc_compile
from rfc_compile.runtime.latent_pair import LatentPair, find_latent_pair

STEPS = 16


def drawn(model: Any, seed: int = 0, guidance: float = 1.5) -> Tensor:
    """Euler steps with the two answers of every sample mixed."""
    x = tokens(seed)
    with torch.no_grad():
        for step in range(STEPS):
            cond, empty = model(x, timesteps(900 - 50 * step)).chunk(2)
            x = x - (cond + guidance * (cond - empty)) / STEPS
    return x


@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_both_answers_explain_the_latent(guidance: float) -> None:
    model = build(Doubled)
    rfc = compiled(model)
    reference = drawn(model, guidance=guidance)
    for _ in range(2):  # the second is a run of its own
        found = drawn(rfc, guidance=guidance)
        decisions = rfc_compile.stats(rfc).decisions
        assert len(decisions) == STEPS
        assert all(d.reason == "error_control" for d in decisions[1:] if d.full)
        assert sum(d.full for d in decisions) < STEPS - 4
        assert (found - reference).norm() / reference.norm() < 0.05
    assert len(rfc_compile.explain(rfc).regions) == 1


def test_a_full_run_is_exact() -> None:
    model = build(Doubled)
    rfc = compiled(model, schedule="interval", interval=1)
    assert torch.equal(drawn(rfc), drawn(model))


def test_rows_of_the_output_for_one_of_the_latent() -> None:
    """An output with as many rows as the latent comes first."""
    x, y = torch.zeros(2, 3, 4), torch.zeros(4, 3, 4)
    pair = find_latent_pair([x], [y])
    assert pair == LatentPair(0, 0, 1, 3, copies=2)
    assert pair.latent([x]).shape == pair.returned([y]).shape == (4, 12)
    assert find_latent_pair([x], [y, x]) == LatentPair(0, 1, 1, 3)
    assert find_latent_pair([x], [torch.zeros(3, 3, 4)]) is None
    assert find_latent_pair([y], [x]) is None
