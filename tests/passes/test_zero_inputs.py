"""Inputs that are all zero: no size to divide by, and no reason to compute in full."""

from __future__ import annotations

import pytest
import torch
from models import Stack, build, timesteps, tokens
from torch import Tensor

import rfc_compile
from rfc_compile.estimators.step_signal import farthest_move, prediction_error


class Controlled(Stack):
    """Two latents of one shape, as a picture and what it is to be changed by."""

    def forward(self, x: Tensor, t: Tensor, control: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x + 0.5 * control, t)


def test_a_latent_that_is_switched_off_has_not_moved() -> None:
    x, zero = tokens(1), torch.zeros(2, 3)
    moved = farthest_move([1.1 * x, zero], [x, zero])
    torch.testing.assert_close(moved, torch.tensor(0.1 / 1.1))
    assert farthest_move([x, zero], [x, zero + 1]) == 1
    assert farthest_move([x, zero], [x, zero]) == 0
    unconditional = torch.stack([torch.ones(3), torch.zeros(3)])
    assert farthest_move([x, unconditional], [x, unconditional]) == 0


@pytest.mark.parametrize("rows", [[0, 1], [1]])
def test_a_latent_of_zeros_alone_is_told(rows: list[int]) -> None:
    x = tokens(1)
    broken = x.clone()
    broken[rows] = 0
    assert not farthest_move([broken], [x]).isfinite()
    assert not farthest_move([0 * x, 0 * x], [x, x]).isfinite()


def test_zeros_that_were_predicted_are_no_error() -> None:
    x, zero = tokens(1), torch.zeros(2, 6, 16)
    value, predicted = torch.stack([x[0], zero[0]]), torch.stack([1.1 * x[0], zero[0]])
    found = prediction_error(value, predicted)
    torch.testing.assert_close(found, torch.tensor([0.1, 0.0]))
    assert torch.equal(prediction_error(zero, x), torch.ones(2))
    assert prediction_error(torch.full_like(x, torch.nan), x).isnan().all()


@pytest.mark.parametrize("until", [0, 6, 12])
def test_an_input_of_zeros_is_cached(until: int) -> None:
    """Switched off at some step, which is full: all others are as before."""
    plain = build(Controlled)
    options = {"inner": "eager", "schedule": "interval", "interval": 3}
    options["corrector"] = "off"
    model = torch.compile(plain, backend="rfc", options=options)
    x, control = tokens(1), tokens(2)
    for step in range(12):
        call = x, timesteps(20 - step), control * (step < until)
        with torch.no_grad():
            found, exact = model(*call), plain(*call)
        if rfc_compile.stats(model).decisions[-1].full:
            assert torch.equal(found, exact)
        x = x - 0.02 * found
    reasons = [d.reason for d in rfc_compile.stats(model).decisions]
    assert "non_finite" not in reasons
    assert reasons.count("scheduled") >= 3
    assert not rfc_compile.explain(model).uncached_reasons
