"""Fresh noise and edits at every step; what nobody tells in a broken forward."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import Any

import pytest
import torch
from denoising import LABELS, compiled, small_glyph, steps_of
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


class Cut(nn.Module):
    """A last layer behind a graph break."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        found: torch.Tensor = self.layer(*values)
        return found


def broken() -> nn.Module:
    """The graph that is given latent and timestep is not the one that answers."""
    model: Any = small_glyph()
    model.proj_out_2 = Cut(model.proj_out_2)
    return model


@pytest.mark.parametrize("options", [{}, {"target_nfc": 5}])
def test_noise_in_a_broken_forward_is_computed_and_told(
    options: dict[str, Any],
) -> None:
    """The timestep goes on, but not the latent that the caller passes."""
    rfc = compiled(broken(), **options)
    with pytest.warns(UncachedWarning, match="fresh noise"):
        found = drawn(rfc, 0.5)
    assert torch.equal(found, drawn(small_glyph(), 0.5))


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


def test_a_run_that_its_block_leaves_before_its_end_is_told() -> None:
    """Its steps were counted in calls of another kind."""
    model = compiled(GLYPH_DIT.load())
    with (
        pytest.warns(UncachedWarning, match=f"a run of {STEPS} steps had no cached"),
        rfc_compile.trajectory("run", num_steps=2 * STEPS),
    ):
        drawn(model, flips=True)


CHURNED = 20


@torch.no_grad()
def churned(model: nn.Module, back: int = 20, first_at: int = 0) -> torch.Tensor:
    """Heun's solver with fresh noise before steps: its timesteps go ``back`` there.

    Steps before ``first_at`` have no fresh noise.
    """
    kept = GLYPH_DIT.make_scheduler("ddim", CHURNED).alphas_cumprod
    generator, x = torch.Generator().manual_seed(1), initial_noise(2, 0)
    times = [999 - 999 * i // CHURNED for i in range(CHURNED)] + [0]
    for step, (now, after) in enumerate(pairwise(times)):
        start = min(999, now + back * (step >= first_at))
        part = kept[start] / kept[now]
        fresh = torch.randn(x.shape, generator=generator)
        x = part**0.5 * x + (1 - part) ** 0.5 * fresh
        a, s, b, r = (
            f(kept[t]) ** 0.5 for t in (start, after) for f in (float, lambda k: 1 - k)
        )
        first = _velocity(model, x, start)
        moved = (a * b + s * r) * x + (a * r - s * b) * first
        last = _velocity(model, moved, after) if after else first
        x = (a * b + s * r) * x + (a * r - s * b) * (first + last) / 2
    return x


def _velocity(model: nn.Module, x: torch.Tensor, time: int) -> torch.Tensor:
    steps = torch.full((2,), time)
    return model(x, timestep=steps, class_labels=LABELS).sample  # type: ignore[no-any-return]


@pytest.mark.parametrize("wanted", [6, None])
def test_a_named_run_goes_on_where_stages_go_back_in_time(wanted: int | None) -> None:
    calls = 2 * CHURNED - 1
    model = compiled()
    with rfc_compile.trajectory("run", num_steps=calls, target_nfc=wanted):
        found = churned(model)
    known = rfc_compile.stats(model)
    assert len(known.decisions) == calls
    if wanted is None:  # what comes after noise is told by no call before
        expected = churned(small_glyph())
        assert (found - expected).norm() < 0.02 * expected.norm()
    else:
        assert known.nfc == wanted


@pytest.mark.parametrize("back", [45, 70])
def test_a_named_run_goes_on_where_noise_sets_in_later(back: int) -> None:
    """A move onward is longer than those before, after the first one that goes back."""
    calls = 2 * CHURNED - 1
    model = compiled()
    with rfc_compile.trajectory("run", num_steps=calls, target_nfc=10):
        churned(model, back, first_at=3)
    known = rfc_compile.stats(model)
    assert (len(known.decisions), known.nfc) == (calls, 10)


@pytest.mark.parametrize("latents", [1, 2], ids=["alone", "in turn"])
@pytest.mark.parametrize("steps", [1, 2, 3, STEPS])
def test_a_named_run_that_was_broken_off_begins_anew(steps: int, latents: int) -> None:
    """Its first timestep is further back than any stage."""
    model, images = compiled(), []
    for name in ("again", "alone"):
        for seed in (1, 2) if name == "again" else (2,):
            with rfc_compile.trajectory(name, num_steps=2 * STEPS, target_nfc=20):
                seeds = range(seed, seed + 2 * latents, 2)
                drawn = zip(
                    *[steps_of(model, seed=one, steps=STEPS) for one in seeds],
                    strict=True,
                )
                images.append([*islice(drawn, steps if seed == 1 else None)][-1])
    assert torch.equal(torch.cat(images[1]), torch.cat(images[2]))


def test_steps_of_several_calls_that_follow_from_nothing_are_told() -> None:
    with pytest.warns(UncachedWarning, match="4 runs in a row ended with their first"):
        churned(compiled())
