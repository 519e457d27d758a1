"""The latent may stand anywhere among the inputs: what the sampler moves is it.

The same denoiser is called with a reference before its latent, behind it, beside it;
each draws, step by step, the image that it draws with the latent alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from denoising import small_glyph
from pipelines import videos
from pipelines.base import randomize
from torch import Tensor, nn

import rfc_compile
from rfc_compile.tools.measure.glyph_dit import initial_noise, make_scheduler

STEPS = 12
OPTIONS = {"inner": "eager", "target_nfc": 5}
UNTOLD = {**OPTIONS, "schedule": "interval", "interval": 3}
del UNTOLD["target_nfc"]


class Joined(nn.Module):
    """Reads the latent from a larger input; ``whole`` answers all of that."""

    def __init__(self, dim: int, *, first: bool, whole: bool) -> None:
        super().__init__()
        self.denoiser = small_glyph()
        self.dim, self.first, self.whole = dim, first, whole

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        one, other = x.chunk(2, self.dim)
        latent, reference = (one, other) if self.first else (other, one)
        out = self.denoiser(
            latent + 0 * reference, timestep=timestep, class_labels=label
        ).sample
        if not self.whole:
            return out
        both = (out, 0.3 * reference) if self.first else (0.3 * reference, out)
        return torch.cat(both, self.dim)

    def call(self, model: Any, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        reference = torch.linspace(-1, 1, x.numel()).view_as(x)
        both = (x, reference) if self.first else (reference, x)
        out: Tensor = model(torch.cat(both, self.dim), t, label)
        if not self.whole:
            return out
        return out.chunk(2, self.dim)[0 if self.first else 1]


class Beside(nn.Module):
    """Is given the reference first, under a name that says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.denoiser = small_glyph()

    def forward(self, a: Tensor, b: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        result: Tensor = self.denoiser(
            b + 0 * a, timestep=timestep, class_labels=label
        ).sample
        return result

    def call(self, model: Any, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        result: Tensor = model(torch.linspace(-1, 1, x.numel()).view_as(x), x, t, label)
        return result


FORMS: dict[str, Callable[[], Any]] = {
    "channels behind": lambda: Joined(1, first=True, whole=False),
    "channels before": lambda: Joined(1, first=False, whole=False),
    "places behind, answered": lambda: Joined(3, first=True, whole=True),
    "places before, answered": lambda: Joined(3, first=False, whole=True),
    "another input before": Beside,
}


def steps_of(form: Any, model: Any) -> Iterator[Tensor]:
    """The latents after every step, guided in separate calls."""
    sampler = make_scheduler("ddim", STEPS)
    x = initial_noise(1, 5)
    for t in sampler.timesteps:
        calls = [form.call(model, x, t.expand(1), torch.tensor([i])) for i in (3, 7)]
        x = sampler.step(2 * calls[0] - calls[1], t, x).prev_sample
        yield x


class Alone(nn.Module):
    """The latent alone."""

    def __init__(self) -> None:
        super().__init__()
        self.denoiser = small_glyph()

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        result: Tensor = self.denoiser(x, timestep=timestep, class_labels=label).sample
        return result

    def call(self, model: Any, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        result: Tensor = model(x, t, label)
        return result


def drawn(form: Any, *, told: bool) -> tuple[list[Tensor], rfc_compile.Statistics]:
    """A run and what it showed."""
    torch.compiler.reset()
    options = OPTIONS if told else UNTOLD
    model = torch.compile(form, backend="rfc", dynamic=False, options=options)
    run = rfc_compile.trajectory("image", num_steps=STEPS) if told else nullcontext()
    with run, torch.no_grad():
        latents = list(steps_of(form, model))
    known = rfc_compile.stats(model)
    assert known is not None
    return latents, known


@cache
def expected(told: bool) -> tuple[list[Tensor], rfc_compile.Statistics]:
    return drawn(Alone(), told=told)


@pytest.mark.parametrize("told", [True, False], ids=["named", "by the fit"])
@pytest.mark.parametrize("name", FORMS)
def test_the_latent_is_what_moves(name: str, told: bool) -> None:
    wanted, alone = expected(told)
    latents, known = drawn(FORMS[name](), told=told)
    assert 0 < alone.nfc < STEPS
    assert [d.full for d in known.decisions] == [d.full for d in alone.decisions]
    repaid = [d.debt for d in alone.decisions if d.debt is not None]
    assert repaid, "nothing is corrected"
    assert [d.debt for d in known.decisions if d.debt is not None] == pytest.approx(
        repaid, rel=1e-3
    )
    for latent, own in zip(latents, wanted, strict=True):
        assert torch.allclose(latent, own, rtol=0.0, atol=1e-5)


def test_a_part_of_the_latent_is_no_better_explained() -> None:
    """A model that takes over in the middle: the solver's history is another's.

    Its first steps are explained roughly, three of four channels least roughly.
    """
    torch.compiler.reset()
    torch.manual_seed(0)
    pipe = videos.wan(transformer_2=videos.wan_transformer(), boundary_ratio=0.875)
    for model in (pipe.transformer, pipe.transformer_2):
        randomize(model)
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer_2.compile(backend="rfc", options={"inner": "eager"})
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)
        call = {**videos.wan_call(), "num_inference_steps": 28}
        drawn.append(pipe(generator=torch.Generator().manual_seed(0), **call).frames)
    assert rfc_compile.stats(pipe.transformer_2).nfc < 20
    assert torch.equal(*drawn)


@pytest.mark.parametrize("factor", [0.0, 0.5], ids=["zero", "half"])
def test_a_reference_that_guidance_scales_is_no_latent(factor: float) -> None:
    """It moves between the two calls of a step, and is explained by itself alone."""
    torch.compiler.reset()
    model = torch.compile(Beside(), backend="rfc", options={"inner": "eager"})
    sampler, x = make_scheduler("ddim", STEPS), initial_noise(1, 5)
    reference, label = torch.linspace(-1, 1, x.numel()).view_as(x), torch.tensor([3])
    with torch.no_grad():
        for t in sampler.timesteps:
            wanted, other = (
                model(scale * reference, x, t.expand(1), label)
                for scale in (1.0, factor)
            )
            x = sampler.step(2 * wanted - other, t, x).prev_sample
    known = rfc_compile.stats(model)
    assert known is not None
    assert known.steps >= STEPS - 1, "the latent is known from the second step on"
    assert known.nfc < known.steps


def test_what_stands_at_another_timestep_is_no_latent() -> None:
    """Nothing explains fresh noise; the reference before the latent never moves."""
    torch.compiler.reset()
    form = Beside()
    model = torch.compile(form, backend="rfc", options={"inner": "eager"})
    noise, x = torch.Generator().manual_seed(0), initial_noise(1, 5)
    with torch.no_grad(), rfc_compile.trajectory("image", num_steps=STEPS):
        for t in torch.linspace(900, 75, STEPS):
            fresh = torch.randn(x.shape, generator=noise)
            out = form.call(model, x, t.expand(1), torch.tensor([3]))
            x = 0.8 * x - 0.1 * out + 0.5 * fresh
    known = rfc_compile.stats(model)
    assert known is not None
    assert known.steps == STEPS
    assert "same_latent" not in {d.reason for d in known.decisions}
