"""Guidance in one batch: made inside of the forward, or for three channels alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from denoising import compiled
from models import TOKENS, WIDTH, Stack, build, timesteps, tokens
from original_forms import Doubled, TwoAnswers
from torch import Tensor, nn

import rfc_compile
from rfc_compile.runtime.latent_pair import LatentPair, find_latent_pair

STEPS = 16


def drawn(model: Any, seed: int = 0, guidance: float = 1.5) -> Tensor:
    """Euler steps with the two answers of every sample mixed."""
    x = tokens(seed)
    with torch.no_grad():
        for step in range(STEPS):
            found = model(x, timesteps(900 - 50 * step))
            cond, empty = found if isinstance(found, tuple) else found.chunk(2)
            x = x - (cond + guidance * (cond - empty)) / STEPS
    return x


@pytest.mark.parametrize("form", [Doubled, TwoAnswers])
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_both_answers_explain_the_latent(guidance: float, form: type[Doubled]) -> None:
    model = build(form)
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


class Labelled(Stack):
    """Images (B, 4, H, W) with a class: the last one stands for none."""

    def __init__(self) -> None:
        super().__init__()
        self.label = nn.Embedding(3, WIDTH)
        self.patch, self.unpatch = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        h = self.patch(x.flatten(2).mT) + 3 * self.label(y)[:, None]
        h = self.unpatch(super().forward(h, t))
        return h.mT.unflatten(2, x.shape[2:])


def drawn_with_labels(model: Any, guided: int) -> Tensor:
    """Guidance of the first channels; the others are those of the class alone."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 2, TOKENS, generator=generator)
    labels = torch.tensor([0, 1, 2, 2])
    with torch.no_grad():
        for step in range(STEPS):
            t = timesteps(900 - 50 * step, batch=4)
            found = model(torch.cat([x, x]), t, labels)
            cond, empty = found[:, :guided].chunk(2)
            mixed = cond + 3 * (cond - empty)
            x = x - torch.cat([mixed, found[:2, guided:]], dim=1) / STEPS
    return x


@pytest.mark.parametrize("guided", [3, 4])
def test_guidance_of_three_channels(guided: int) -> None:
    model = build(Labelled)
    rfc = compiled(model)
    found, reference = (drawn_with_labels(m, guided) for m in (rfc, model))
    decisions = rfc_compile.stats(rfc).decisions
    assert len(decisions) == STEPS
    assert sum(d.full for d in decisions) < STEPS - 4
    assert (found - reference).norm() / reference.norm() < 0.05


@pytest.mark.parametrize("form", [Doubled, TwoAnswers])
def test_a_full_run_is_exact(form: type[Doubled]) -> None:
    model = build(form)
    rfc = compiled(model, schedule="interval", interval=1)
    assert torch.equal(drawn(rfc), drawn(model))


def test_a_tuple_of_answers_is_corrected_like_a_batch_of_them() -> None:
    one, two = (drawn(compiled(build(form))) for form in (Doubled, TwoAnswers))
    assert torch.equal(one, two)


def test_rows_of_the_output_for_one_of_the_latent() -> None:
    """An output with as many rows as the latent comes first."""
    x, y = torch.zeros(2, 3, 4), torch.zeros(4, 3, 4)
    pair = find_latent_pair([x], [y])
    assert pair == LatentPair(0, 0, 1, 3, copies=2)
    assert pair.latent([x]).shape == pair.returned([y]).shape == (4, 12)
    assert find_latent_pair([x], [y, x]) == LatentPair(0, 1, 1, 3)
    assert find_latent_pair([x], [torch.zeros(3, 3, 4)]) is None
    assert find_latent_pair([y], [x]) is None
