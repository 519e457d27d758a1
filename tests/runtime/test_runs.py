"""Where somebody tells that a run has ended, its state is freed at once."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from denoising import LABELS, compiled, small_glyph, steps_of
from diffusers import DiffusionPipeline
from faulty import TEXT, Watched
from models import tokens
from torch import Tensor, nn

import rfc_compile
from rfc_compile import UncachedWarning
from rfc_compile.runtime.registry import dispatchers_of
from rfc_compile.tools.measure.glyph_dit import initial_noise, make_scheduler

STEPS = 20


def state_of(model: torch.nn.Module) -> list[weakref.ref[Tensor]]:
    """Weak references to every tensor that the running trajectory keeps."""
    return [
        weakref.ref(slot)
        for dispatcher in dispatchers_of(model)
        for scope in dispatcher.sessions()
        if scope.current is not None
        for branch in scope.current.branches
        for slot in branch.state.slots
    ]


def alive(references: list[weakref.ref[Tensor]]) -> int:
    gc.collect()
    return sum(reference() is not None for reference in references)


@pytest.mark.parametrize("entered", ["once per run", "once per step"])
def test_a_run_of_a_told_length_frees_its_state(entered: str) -> None:
    model = compiled(small_glyph(), schedule="interval")
    if entered == "once per run":
        with rfc_compile.trajectory("run", num_steps=STEPS):
            list(steps_of(model, steps=STEPS))
            kept = state_of(model)
    else:
        steps = steps_of(model, steps=STEPS)
        for _ in range(STEPS):
            with rfc_compile.trajectory("run", num_steps=STEPS):
                next(steps)
                kept = state_of(model)
    assert kept
    assert alive(kept) == 0
    stats = rfc_compile.stats(model)
    assert stats.cache_bytes == 0
    assert len(stats.decisions) == STEPS


def test_a_block_left_early_keeps_the_state() -> None:
    model = compiled(small_glyph(), schedule="interval")
    with rfc_compile.trajectory("run", num_steps=STEPS + 1):
        list(steps_of(model, steps=STEPS))
    assert rfc_compile.stats(model).cache_bytes > 0


def test_another_name_leaves_a_run_alone() -> None:
    model = compiled(small_glyph(), schedule="interval")
    left, right = (steps_of(model, seed=seed, steps=STEPS) for seed in (1, 2))
    for _ in range(STEPS - 1):
        with rfc_compile.trajectory("left", num_steps=STEPS):
            expected = next(left)
    with rfc_compile.trajectory("right", num_steps=1):
        next(right)
    with rfc_compile.trajectory("left", num_steps=STEPS):
        expected = next(left)
    whole = compiled(small_glyph(), schedule="interval")
    *_, alone = steps_of(whole, seed=1, steps=STEPS)
    assert torch.equal(expected, alone)


@pytest.mark.parametrize("use", ["with", "for"])
def test_a_run_ends_with_its_progress_bar(use: str) -> None:
    model = compiled(small_glyph(), schedule="interval")
    pipeline = DiffusionPipeline()
    pipeline.set_progress_bar_config(disable=True)
    steps = steps_of(model, steps=STEPS)
    if use == "with":
        with pipeline.progress_bar(total=STEPS) as bar:
            for _ in steps:
                bar.update()
            kept = state_of(model)
    else:
        for _ in pipeline.progress_bar(range(STEPS)):
            next(steps)
            kept = state_of(model)
    assert kept
    assert alive(kept) == 0
    assert rfc_compile.stats(model).cache_bytes == 0


def test_a_run_after_the_end_of_another_is_its_own() -> None:
    model = compiled(small_glyph(), schedule="interval")
    pipeline = DiffusionPipeline()
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for _ in range(2):
        with pipeline.progress_bar(total=STEPS):
            *_, image = steps_of(model, steps=STEPS)
            images.append(image)
        after = rfc_compile.stats(model)
        assert after.nfc < len(after.decisions) == STEPS
    assert torch.equal(*images)


def another(model: nn.Module, timestep: int, seed: int) -> bool:
    """A call with another image's latent: whether it is the plain model's, and full."""
    x = initial_noise(2, seed)
    given = {"timestep": torch.tensor(timestep).expand(2), "class_labels": LABELS}
    with torch.no_grad():
        ours, plain = (denoise(x, **given).sample for denoise in (model, small_glyph()))
    made = rfc_compile.stats(model).decisions[-1]
    return made.full and torch.equal(ours, plain)


@pytest.mark.parametrize("timestep", [450, 440, 0, 500, 900])
def test_an_unexplained_latent_begins_a_run_whatever_its_timestep(
    timestep: int,
) -> None:
    model = compiled(small_glyph(), schedule="interval")
    steps = steps_of(model, seed=1, steps=STEPS)
    for _ in range(10):  # the last at timestep 500
        next(steps)
    assert another(model, timestep, seed=2)
    stats = rfc_compile.stats(model)
    assert (stats.steps, stats.decisions[0].reason) == (1, "new_run")
    assert stats.last is not None
    assert stats.last.steps == 10
    *_, image = steps
    *_, alone = steps_of(compiled(schedule="interval"), seed=1, steps=STEPS)
    assert torch.equal(image, alone)


def test_a_first_step_with_another_prompt_leaves_when_its_own_output_explains() -> None:
    """Until then the same noise with another prompt may be guidance."""
    model = compiled(small_glyph(), schedule="interval")
    images = {}
    runs = {
        first: steps_of(model, labels=torch.tensor([first, first + 4]), steps=STEPS)
        for first in (3, 5)
    }
    for number in range(STEPS):
        for first, steps in runs.items():
            images[first] = next(steps)
        live = [run for d in dispatchers_of(model) for run in d.sessions()[0].live]
        assert len(live) == (1 if number == 0 else 2)
    for first, image in images.items():
        alone = compiled(schedule="interval")
        labels = torch.tensor([first, first + 4])
        *_, expected = steps_of(alone, labels=labels, steps=STEPS)
        assert torch.equal(image, expected)


def test_a_told_length_is_where_the_next_run_begins() -> None:
    """A complete run is not continued, nor one that would go back in time."""
    model = compiled(small_glyph(), schedule="interval")
    with rfc_compile.trajectory("run", num_steps=STEPS):
        for length in (STEPS, 7, STEPS):
            steps = steps_of(model, steps=STEPS)
            for _ in range(length):
                next(steps)
            assert rfc_compile.stats(model).steps == length


def test_a_long_run_without_a_cached_step_is_told() -> None:
    model = compiled(tolerance=1e-6)
    list(steps_of(model, seed=1, steps=STEPS))
    with pytest.warns(UncachedWarning, match="20 steps had no cached step"):
        list(steps_of(model, seed=2, steps=STEPS))


def test_a_run_that_is_to_be_full_is_not_told(
    recwarn: pytest.WarningsRecorder,
) -> None:
    model = compiled(schedule="interval", interval=1)
    for seed in (1, 2):
        list(steps_of(model, seed=seed, steps=STEPS))
    assert not [one for one in recwarn if one.category is UncachedWarning]


def test_calls_that_follow_from_nothing_are_told() -> None:
    model = compiled(schedule="interval")
    for seed in range(4):
        assert another(model, 900 - 50 * seed, seed)
    with pytest.warns(UncachedWarning, match="4 runs in a row ended with their first"):
        assert another(model, 700, 4)


def test_several_calls_a_step_that_follow_from_nothing_are_told() -> None:
    """Images side by side begin at one timestep; these calls go on in time."""
    model = compiled(schedule="interval")
    for seed in range(7):
        assert another(model, 900 - 50 * (seed // 2), seed)
    with pytest.warns(UncachedWarning, match="4 runs in a row ended with their first"):
        assert another(model, 750, 7)


def test_another_picture_at_the_next_timestep_begins_a_run() -> None:
    """As near as a sampler's own steps may be, but not of one whose steps are exact."""
    model = compiled()
    steps = steps_of(model, steps=STEPS)
    *_, before, latent = (next(steps) for _ in range(STEPS - 1))
    other = torch.randn(latent.shape, generator=torch.manual_seed(5))
    other *= 0.15 * (latent - before).norm() / other.norm()
    time = make_scheduler("ddim", STEPS).timesteps[-1].expand(len(LABELS))
    with torch.no_grad():
        model(latent + other, timestep=time, class_labels=LABELS)
    decision = rfc_compile.stats(model).decisions[-1]
    assert (decision.full, decision.reason) == (True, "new_run")


def mean_weights(nodes: list[float], start: float, end: float) -> list[float]:
    """Of values at ``nodes``: the mean of their polynomial between two times."""
    points, shares = np.polynomial.legendre.leggauss(4)
    times = (start + end) / 2 + (end - start) / 2 * points
    return [
        sum(
            share / 2 * math.prod((time - o) / (x - o) for o in nodes if o != x)
            for time, share in zip(times.tolist(), shares.tolist(), strict=True)
        )
        for x in nodes
    ]


def corrected(model: Any, steps: int, seed: int) -> Iterator[Tensor]:
    """A predictor and a corrector of order 3, one call a step: what is called.

    The latent that is carried on is never seen by the model.
    """
    levels = [3.3 * t / (1 + 2.3 * t) for t in np.linspace(1, 0, steps + 1).tolist()]
    carried, outputs = tokens(seed)[:1], []
    for i, level in enumerate(levels[:-1]):
        first, x = max(i - 3, 0), carried
        span = levels[max(i - 1, 0)], level
        for y, weight in zip(
            outputs[first:], mean_weights(levels[first:i], *span), strict=True
        ):
            x = x + (span[1] - span[0]) * weight * y
        with torch.no_grad():
            outputs.append(model(x, torch.full((1,), 1000 * level), TEXT[:1]))
        for y, weight in zip(
            outputs[first:], mean_weights(levels[first : i + 1], *span), strict=True
        ):
            carried = carried + (span[1] - span[0]) * weight * y
        yield x


def test_a_corrector_whose_run_was_broken_off_before() -> None:
    """The broken one explains the same image's calls as well as the image's own run."""
    *_, alone = corrected(Watched().rfc, 12, seed=2)
    for broken_off in (3, 6):
        model = Watched().rfc
        list(itertools.islice(corrected(model, 12, seed=2), broken_off))
        *_, image = corrected(model, 12, seed=2)
        assert torch.equal(image, alone), broken_off
