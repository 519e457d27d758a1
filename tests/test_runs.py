"""Where somebody tells that a run has ended, its state is freed at once."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

import rfc_compile
from rfc_compile.observe import dispatchers_of
from tests.denoising import compiled, small_glyph, steps_of

STEPS = 20


def state_of(model: torch.nn.Module) -> list[weakref.ref[Tensor]]:
    """Weak references to every tensor that the running trajectory keeps."""
    return [
        weakref.ref(slot)
        for dispatcher in dispatchers_of(model)
        for scope in dispatcher.scopes()
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
