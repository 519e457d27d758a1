"""Latents that mix what the model returned: by masks, edits, or of other timesteps."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline
from torch import Tensor

import rfc_compile
from rfc_compile.tools.measure.glyph_dit import EMPTY_CLASS, GLYPH_DIT, initial_noise
from rfc_compile.tools.measure.metrics import psnr

LABELS, OTHERS = torch.tensor([3]), torch.tensor([7])
EMPTY = torch.tensor([EMPTY_CLASS])
SEEDS = (0, 1)
Output = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latent, timestep, labels) -> output."""
Sample = Callable[[Output, int, int], Tensor]
"""(model, steps, seed) -> image."""


@pytest.fixture(scope="module")
def model() -> Any:
    options = {"inner": "eager"}
    return torch.compile(
        GLYPH_DIT.load(), backend="rfc", dynamic=False, options=options
    )


def output_of(denoise: Any) -> Output:
    def output(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        found: Tensor = denoise(
            x, timestep=t.expand(len(x)), class_labels=labels
        ).sample
        return found

    return output


def drawn(sample: Sample, denoise: Any, steps: int, seed: int) -> Tensor:
    with torch.no_grad():
        return sample(output_of(denoise), steps, seed).clamp(-1, 1)


def sampled(predict: Callable[[Tensor, Tensor], Tensor], steps: int, seed: int) -> Any:
    """The latent after every step, by DDIM."""
    sampler = GLYPH_DIT.make_scheduler("ddim", steps)
    x = initial_noise(1, seed)
    for t in sampler.timesteps:
        x = sampler.step(predict(x, t), t, x).prev_sample
        edited = yield x
        x = x if edited is None else edited


def two_prompts(output: Output, steps: int, seed: int) -> Tensor:
    """One prompt for the left half, another for the right."""
    left = (torch.arange(32) < 16).float()

    def predict(x: Tensor, t: Tensor) -> Tensor:
        first, second, empty = (output(x, t, y) for y in (LABELS, OTHERS, EMPTY))
        return empty + 2 * (left * first + (1 - left) * second - empty)

    *_, image = sampled(predict, steps, seed)
    return image


def inpainted(output: Output, steps: int, seed: int) -> Tensor:
    """A part is replaced by that of a given image after every step."""
    inside = (torch.arange(32) < 20).float()
    given, noise = torch.tanh(initial_noise(1, seed + 9)), initial_noise(1, seed)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        cond, empty = (output(x, t, y) for y in (LABELS, EMPTY))
        return empty + 2 * (cond - empty)

    latents = sampled(predict, steps, seed)
    x = next(latents)
    for step in range(1, steps):
        noised = given + (noise - given) * (1 - step / steps)
        x = latents.send(inside * x + (1 - inside) * noised)
    return x


@pytest.mark.parametrize("sample", [two_prompts, inpainted])
def test_intervals_where_nothing_is_repaid(model: Any, sample: Sample) -> None:
    """They grow hardly longer than an even spread's: late errors stay in the image."""
    steps, found, full = 50, [], []
    for seed in SEEDS:
        rfc_compile.reset(model)
        with rfc_compile.trajectory("run", num_steps=steps):
            image = drawn(sample, model, steps, seed)
        expected = drawn(sample, GLYPH_DIT.load(), steps, seed)
        found.append(float(psnr(image, expected)))
        known = rfc_compile.stats(model)
        assert known is not None
        at = [d.step for d in known.decisions if d.full and d.branch == 0]
        full.append(len(at))
        gaps = sorted(b - a for a, b in itertools.pairwise(at))
        assert gaps[-2] <= 3
        assert gaps[-1] <= 4, "one in which the mixture is hardly seen"
    assert statistics.mean(found) > 39
    assert statistics.mean(full) < 0.42 * steps


def bar(steps: int) -> AbstractContextManager[object]:
    pipeline = DiTPipeline.__new__(DiTPipeline)
    pipeline._internal_dict = {}
    pipeline.set_progress_bar_config(disable=True)
    progress: AbstractContextManager[object] = pipeline.progress_bar(total=steps)
    return progress


def compared(model: Any, sample: Sample, *, named: bool) -> float:
    """PSNR of 28 steps against the uncached image."""
    rfc_compile.reset(model)
    with bar(28) if named else nullcontext():
        found = drawn(sample, model, 28, 0)
    return float(psnr(found, drawn(sample, GLYPH_DIT.load(), 28, 0)))


def time_step_guided(distance: int, *, guided: bool, begins: int = 1000) -> Sample:
    """The output is led away from that of another timestep of the same latent."""

    def sample(output: Output, steps: int, seed: int) -> Tensor:
        def predict(x: Tensor, t: Tensor) -> Tensor:
            v = output(x, t, LABELS)
            if t > begins:
                return v
            empty = output(x, t, EMPTY) if guided else v
            other = output(x, (t + distance).clamp(max=999), LABELS)
            return empty + 2 * (v - empty) + 1.5 * (v - other)

        *_, image = sampled(predict, steps, seed)
        return image

    return sample


@pytest.mark.parametrize(
    ("named", "distance", "guided"),
    [
        (False, 60, False),
        (False, -40, True),
        (True, 60, True),
        (True, -10, False),
    ],
)
@pytest.mark.filterwarnings("ignore::rfc_compile.UncachedWarning")
def test_calls_at_several_timesteps_of_a_latent(
    model: Any, named: bool, distance: int, guided: bool
) -> None:
    """Their runs cannot be told apart: all but the first steps are full."""
    sample = time_step_guided(distance, guided=guided)
    assert compared(model, sample, named=named) > 60


@pytest.mark.filterwarnings("ignore::rfc_compile.UncachedWarning")
def test_samples_at_several_timesteps_of_a_latent() -> None:
    options = {"inner": "eager", "per_sample": True}
    rows = torch.compile(GLYPH_DIT.load(), backend="rfc", dynamic=True, options=options)
    steps, sample = 14, time_step_guided(60, guided=False)
    found = drawn(sample, rows, steps, 0)
    assert float(psnr(found, drawn(sample, GLYPH_DIT.load(), steps, 0))) > 60


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.filterwarnings("ignore::rfc_compile.UncachedWarning")
def test_calls_at_several_timesteps_that_begin_within_a_run(
    model: Any, named: bool
) -> None:
    """They show at the next full step at the latest."""
    sample = time_step_guided(-10, guided=False, begins=780)
    assert compared(model, sample, named=named) > 40


@pytest.mark.filterwarnings("ignore::rfc_compile.UncachedWarning")
def test_an_image_beside_one_with_another_number_of_steps(model: Any) -> None:
    """Both begin with one noise at other timesteps: neither is full for that."""
    images, pair = [], (28, 20)

    def beginning(steps: int) -> Any:
        output = output_of(model)
        return sampled(lambda x, t: output(x, t, LABELS), steps, 0)

    with torch.no_grad():
        for steps in pair:
            rfc_compile.reset(model)
            *_, alone = beginning(steps)
            images.append(alone)
            known = rfc_compile.stats(model)
            assert known is not None
            assert known.nfc < 0.6 * steps
        rfc_compile.reset(model)
        together = itertools.zip_longest(*map(beginning, pair))
        beside = [
            [x for x in latents if x is not None][-1]
            for latents in zip(*together, strict=True)
        ]
    assert all(map(torch.equal, images, beside))
