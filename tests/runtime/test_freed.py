"""State is given back: when runs are over, by a deleted model, by ``reset``."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from denoising import LABELS, compiled, small_glyph, steps_of
from models import WIDTH, Stack, build, timesteps
from torch import Tensor, nn

import rfc_compile
from rfc_compile import UncachedWarning
from rfc_compile.runtime import session
from rfc_compile.runtime.registry import dispatchers_of
from rfc_compile.runtime.session import IDLE_CALLS, MAX_LONE_RUNS
from rfc_compile.runtime.session_table import MAX_SCOPES
from rfc_compile.runtime.state import memory_of
from rfc_compile.runtime.trajectory import Trajectory
from rfc_compile.tools.measure.glyph_dit import initial_noise

OPTIONS = {
    "inner": "eager",
    "min_coverage": 0.0,
    "schedule": "interval",
    "interval": 3,
}
TRAJECTORIES, FEW = 20, 8


def living() -> int:
    """Bytes of all tensors that are left after a collection."""
    gc.collect()
    kinds = (Tensor, nn.Parameter)
    return sum(found.nbytes for found in gc.get_objects() if type(found) in kinds)


def denoise(model: Any, tokens: int, seed: int, steps: int = 5) -> None:
    """A short run on noise of so many tokens."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, tokens, WIDTH, generator=generator)
    for step in range(steps):
        with torch.no_grad():
            x = x - 0.02 * model(x, timesteps(20 - step))


def one_size(model: Any, number: int) -> None:
    denoise(model, 6, number)


def two_sizes(model: Any, number: int) -> None:
    denoise(model, 6 + 3 * (number % 2), number)


def two_names(model: Any, number: int) -> None:
    with rfc_compile.trajectory("ab"[number % 2]):
        denoise(model, 6, number)


def of_unequal_length(model: Any, number: int) -> None:
    denoise(model, 6, number, steps=3 + number % 3)


@pytest.mark.parametrize(
    ("draw", "schedule"),
    [
        (one_size, "rcs"),
        (two_sizes, "interval"),
        (two_names, "rcs"),
        (of_unequal_length, "interval"),
    ],
)
def test_many_runs_keep_no_more_than_a_few(
    draw: Callable[[Any, int], None], schedule: str
) -> None:
    options = {**OPTIONS, "schedule": schedule}
    dynamic = draw is two_sizes  # symbolic sizes take several times as long to trace
    plain = build(Stack)
    model = torch.compile(plain, backend="rfc", dynamic=dynamic, options=options)
    early, late = [], []
    for number in range(TRAJECTORIES):
        draw(model, number)
        if number < FEW:
            early.append(living())
        elif number >= TRAJECTORIES - FEW:
            late.append(living())
    assert rfc_compile.stats(model).cache_bytes > 0
    assert max(late) <= max(early)


def state_of(model: Any) -> list[weakref.ref[Tensor]]:
    """Weak references to all tensors of a model's state."""
    states = [
        branch.state
        for dispatcher in dispatchers_of(model)
        for scope in dispatcher.sessions()
        if scope.current is not None
        for branch in scope.current.branches
    ]
    return [weakref.ref(slot) for state in states for slot in state.slots]


def left(state: list[weakref.ref[Tensor]]) -> int:
    gc.collect()
    return sum(reference() is not None for reference in state)


@pytest.mark.parametrize("form", ["wrapped", "in place"])
def test_a_deleted_model_frees_its_state(form: str) -> None:
    plain = build(Stack)
    if form == "wrapped":
        model: Any = torch.compile(plain, backend="rfc", options=OPTIONS)
    else:
        plain.compile(backend="rfc", options=OPTIONS)
        model = plain
    denoise(model, 6, 0)
    state = state_of(model)
    assert left(state) == len(state) > 3
    del model, plain
    assert left(state) == 0


def test_a_deleted_wrapper_leaves_the_state_to_the_model() -> None:
    """Dynamo keeps what it compiled for as long as the model itself lives."""
    plain = build(Stack)
    model: Any = torch.compile(plain, backend="rfc", options=OPTIONS)
    denoise(model, 6, 0)
    state = state_of(model)
    assert left(state) == len(state) > 3
    del model
    rfc_compile.reset(plain)
    assert left(state) == 0


def test_a_run_that_is_left_frees_its_state_in_the_next() -> None:
    """Not at its first call: both may go on side by side."""
    model = compiled(schedule="interval")
    run = steps_of(model)
    for _ in range(4):
        next(run)
    state = state_of(model)
    other = steps_of(model, seed=7)
    next(other)
    assert left(state) == len(state) > 3
    for _ in range(2 * IDLE_CALLS):
        next(other)
    assert left(state) == 0
    assert "a run of 4 steps is freed" in str(rfc_compile.explain(model).notes)


def test_runs_that_are_over_are_not_missed(recwarn: pytest.WarningsRecorder) -> None:
    """A server gives every image another name."""
    model = torch.compile(build(Stack), backend="rfc", options=OPTIONS)
    for number in range(2 * MAX_SCOPES):
        with rfc_compile.trajectory(f"image {number}", num_steps=3):
            denoise(model, 6, number, steps=3)
    assert not [one for one in recwarn if one.category is UncachedWarning]
    assert not rfc_compile.explain(model).uncached_reasons


def test_a_run_that_ends_frees_the_input_it_began_with() -> None:
    run = Trajectory("run")
    run.first = [torch.zeros(2, 3)]
    run.finish()
    assert not run.first


def unlinked(model: Any, seed: int) -> int:
    """Distillation by scores: another timestep and another noise in every call."""
    x = initial_noise(1, seed)
    model(x, timestep=torch.tensor([20 + 19 * seed % 950]), class_labels=LABELS[:1])
    return rfc_compile.stats(model).cache_bytes


def test_calls_that_nobody_continues_are_freed() -> None:
    model = compiled(small_glyph(4))
    first = unlinked(model, 0)
    with pytest.warns(UncachedWarning, match="ended with their first step"):
        held = [unlinked(model, seed) for seed in range(1, 4 * MAX_LONE_RUNS)]
    assert held[-1] <= (2 * MAX_LONE_RUNS + 2) * first


def test_unlinked_calls_are_not_told_where_full_steps_are_asked_for() -> None:
    model = compiled(small_glyph(4), schedule="interval", interval=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncachedWarning)
        for seed in range(2 * MAX_LONE_RUNS):
            unlinked(model, seed)


def test_calls_that_nobody_continues_leave_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The state of a few calls of a large model would fill the device."""
    model = compiled(small_glyph(4))
    first = unlinked(model, 0)
    share = 6.5 * first / memory_of(torch.device("cpu"))
    monkeypatch.setattr(session, "MEMORY_OF_LONE_RUNS", share)
    with pytest.warns(UncachedWarning, match="ended with their first step"):
        held = [unlinked(model, seed) for seed in range(1, MAX_LONE_RUNS)]
    assert max(held) == 7 * first
    assert "is freed" in str(rfc_compile.explain(model))
