"""Where somebody tells that a run has ended, its state is freed at once."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from denoising import compiled, small_glyph, steps_of
from diffusers import DiffusionPipeline
from torch import Tensor, nn

import rfc_compile
from rfc_compile.runtime.registry import dispatchers_of
from rfc_compile.tools.measure.glyph_dit import EMPTY_CLASS, initial_noise

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


def call(model: nn.Module, timestep: int, seed: int, moved: int, *labels: int) -> None:
    """A step of the image of a seed, which has moved by so many short steps."""
    x = initial_noise(2, seed) + 0.02 * moved * initial_noise(2, 100 + seed)
    for label in labels:
        given = torch.full((2,), label)
        with torch.no_grad():
            model(x, timestep=torch.full((2,), timestep), class_labels=given)


def begun(*labels: int) -> nn.Module:
    """Ten steps of a run that nobody tells of, the last at timestep 600."""
    model = compiled(small_glyph(), schedule="interval")
    for step in range(10):
        call(model, 960 - 40 * step, 1, step, *labels)
    return model


@pytest.mark.parametrize("labels", [(3,), (3, EMPTY_CLASS)])
def test_a_single_step_that_goes_on_is_the_last_of_the_run(
    labels: tuple[int, ...],
) -> None:
    """Although its latent may be another image's: nothing is reused for it."""
    model = begun(*labels)
    call(model, 560, 2, 0, *labels)
    stats = rfc_compile.stats(model)
    assert (stats.steps, len(stats.decisions)) == (11, 11 * len(labels))
    assert [d.step for d in stats.decisions[:: len(labels)]] == list(range(11))
    assert (stats.decisions[-1].full, stats.decisions[-1].timestep) == (True, 560)
    assert stats.last is None
    call(model, 960, 3, 0, *labels)
    after = rfc_compile.stats(model)
    assert after.steps == 1
    assert after.last is not None
    assert (after.last.steps, after.last.nfc) == (11, stats.nfc)
    *_, learnt = next(iter(dispatchers_of(model))).sessions()[0].courses.values()
    assert len(learnt) == len(stats.decisions)


@pytest.mark.parametrize(
    "steps", [[(560, 2, 0), (520, 2, 1)], [(960, 2, 0)], [(640, 2, 0)], [(80, 2, 0)]]
)
def test_what_begins_a_run_of_its_own(steps: list[tuple[int, int, int]]) -> None:
    """A second step, or a timestep that does not go on."""
    model = begun(3)
    for timestep, seed, moved in steps:
        call(model, timestep, seed, moved, 3)
    stats = rfc_compile.stats(model)
    assert stats.steps == len(steps)
    assert stats.last is not None
    assert stats.last.steps == 10
