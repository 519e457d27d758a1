"""Fresh noise and edits at every step, where somebody tells where the run is."""

from __future__ import annotations

import pytest
import torch
from denoising import LABELS, compiled, small_glyph
from torch import nn

import rfc_compile
from rfc_compile import UncachedWarning
from rfc_compile.tools.measure.bundled_models import MODELS
from rfc_compile.tools.measure.glyph_dit import GLYPH_DIT, initial_noise
from rfc_compile.tools.measure.metrics import psnr

EPSILON = MODELS["glyph-dit-epsilon"]
STEPS = 50


@torch.no_grad()
def drawn(model: nn.Module, noise: float = 0.0, *, flips: bool = False) -> torch.Tensor:
    """DDIM steps, each after fresh noise of this share of the latent's variance.

    ``flips`` mirrors every latent besides.
    """
    sampler = GLYPH_DIT.make_scheduler("ddim", STEPS)
    generator = torch.Generator().manual_seed(1)
    x = initial_noise(2, 0)
    for t in sampler.timesteps:
        fresh = torch.randn(x.shape, generator=generator)
        x = (1 - noise) ** 0.5 * x + noise**0.5 * fresh
        x = x.flip(-1) if flips else x
        v = model(x, timestep=t.expand(2), class_labels=LABELS).sample
        x = sampler.step(v, t, x).prev_sample
    return x


@pytest.mark.parametrize("noise", [0.001, 0.01])
def test_steps_are_cached_as_far_as_their_outputs_can_be_predicted(
    noise: float,
) -> None:
    model = compiled()
    with rfc_compile.trajectory("run", num_steps=STEPS):
        found = drawn(model, noise)
    expected = drawn(small_glyph(), noise)
    stats = rfc_compile.stats(model)
    errors = [made.true_error for made in stats.decisions if made.true_error]
    assert errors, "full steps measure what they would have been predicted as"
    assert STEPS / 10 < stats.nfc < STEPS
    assert (found - expected).norm() < 0.1 * expected.norm()


def test_noise_that_is_predicted_is_as_close_as_other_outputs() -> None:
    """Errors of the noise count by the sampler's own factor, which the fit shows."""
    model = compiled(EPSILON.load())
    images = []
    for net in (model, EPSILON.load()):
        with rfc_compile.trajectory("run", num_steps=STEPS):
            images.append(
                EPSILON.sample(
                    net, EPSILON.conditions(1), seed=0, scheduler="ddpm", guidance=1.0
                )
            )
    assert float(psnr(*images)) > 32
    assert 0.5 * STEPS < rfc_compile.stats(model).nfc < STEPS


def test_what_cannot_be_predicted_is_computed_and_told() -> None:
    model = compiled(GLYPH_DIT.load())
    with (
        pytest.warns(UncachedWarning, match="cannot be predicted well enough"),
        rfc_compile.trajectory("run", num_steps=STEPS),
    ):
        found = drawn(model, flips=True)
    assert torch.equal(found, drawn(GLYPH_DIT.load(), flips=True))
    assert rfc_compile.stats(model).nfc == STEPS
