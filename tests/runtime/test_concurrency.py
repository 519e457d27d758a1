"""Many callers of one compiled model, and changes of the model while it is used."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import io
import pickle
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from faulty import (
    DYNAMIC,
    SCHEDULES,
    STATIC,
    STEPS,
    TEXT,
    TimeOfAnyType,
    Watched,
    at,
    at_once,
    draw,
    steps,
)
from models import Stack, build, tokens
from pipelines import ALL
from pipelines.base import INTERVAL, compiled, difference, equal
from torch import Tensor

import rfc_compile
from rfc_compile import UncachedWarning

SEEDS = (1, 2, 3)
EXACT = {"rtol": 0, "atol": 1e-6}

by_form = pytest.mark.parametrize(
    ("form", "options"),
    [("whole", STATIC), ("whole", DYNAMIC), ("blocks", STATIC)],
    ids=["static", "dynamic", "blocks"],
)
by_schedule = pytest.mark.parametrize(
    "options", SCHEDULES.values(), ids=list(SCHEDULES)
)


def largest_error(model: Any, plain: Any, seed: int) -> float:
    """Of the steps of a run, relative to the uncached ones."""
    errors, x = [], tokens(seed)
    for step in range(STEPS):
        with torch.no_grad():
            found, expected = (f(x, at(step), TEXT) for f in (model, plain))
        errors.append(float((found - expected).norm() / expected.norm()))
        x = x - 0.03 * found
    return max(errors)


@functools.cache
def twin(form: str, seed: int, **options: Any) -> Tensor:
    """The image that a caller gets of a model of its own."""
    return draw(Watched(form, **options).rfc, seed)


def check_twins(images: list[Tensor], form: str, options: dict[str, Any]) -> None:
    """The images of SEEDS are those of models of their own."""
    for seed, image in zip(SEEDS, images, strict=True):
        assert torch.equal(image, twin(form, seed, **options)), seed


@by_form
def test_threads_compile_at_once(form: str, options: dict[str, Any]) -> None:
    """Nobody has called the model before; then again, with compiled graphs."""
    model = Watched(form, **options).rfc
    for _ in range(2):
        images = at_once(*(functools.partial(draw, model, seed) for seed in SEEDS))
        check_twins(images, form, options)


def test_threads_with_models_of_their_own() -> None:
    """Models are compiled, explained, reset and freed while others run."""

    # made by one thread: the random numbers of weights are the process's
    models = {seed: [Watched(**STATIC).rfc for _ in range(3)] for seed in SEEDS}

    def work(seed: int) -> Tensor:
        while models[seed]:
            model = models[seed].pop()
            image = draw(model, seed)
            assert rfc_compile.explain(model).regions
            assert rfc_compile.stats(model).steps == STEPS
            rfc_compile.reset(model)
            del model
            gc.collect()
        return image

    images = at_once(*(functools.partial(work, seed) for seed in SEEDS))
    check_twins(images, "whole", STATIC)


@by_form
def test_reset_and_stats_in_another_thread(form: str, options: dict[str, Any]) -> None:
    """Dropped in the middle of a step, state is not used; whoever asks, sees it."""
    watched, done = Watched(form, **options), threading.Event()
    watched.run()

    def disturb() -> None:
        while not done.is_set():
            rfc_compile.stats(watched.rfc)
            rfc_compile.explain(watched.rfc)
            rfc_compile.reset(watched.rfc)

    def work() -> float:
        try:
            models = watched.rfc, watched.plain
            return max(largest_error(*models, seed) for seed in range(6))
        finally:
            done.set()

    _, error = at_once(disturb, work)
    assert error < 0.1
    watched.check_clean()


@by_schedule
def test_threads_that_share_a_name(options: dict[str, Any]) -> None:
    """One trajectory for all, so they take turns; nothing is mixed."""
    watched = Watched(**options)

    def work(seed: int) -> float:
        with rfc_compile.trajectory("shared"):
            return largest_error(watched.rfc, watched.plain, seed)

    assert max(at_once(*(functools.partial(work, seed) for seed in SEEDS))) < 0.1


def test_more_callers_than_are_kept() -> None:
    """The state of the one that waits longest is lost: its image is uncached."""
    model, plain = Watched(**STATIC).rfc, Watched().model
    runs = dict(enumerate(steps(model, seed) for seed in range(12)))

    def step(number: int) -> Tensor:
        with rfc_compile.trajectory(f"caller {number}"):
            return next(runs[number])

    with pytest.warns(UncachedWarning, match="the one not used for longest begins"):
        *_, image = [step(number) for _ in range(STEPS) for number in runs]
    torch.testing.assert_close(image, draw(plain, 11), **EXACT)


def test_many_callers_one_after_the_other_lose_no_run() -> None:
    """A server's tasks: that their runs are over is told by nobody."""
    model = Watched(**STATIC).rfc

    async def one(seed: int) -> None:
        draw(model, seed)

    async def serve() -> None:
        done = []
        for seed in range(11):
            done.append(asyncio.create_task(one(seed)))  # kept: its id is its own
            await done[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("error", UncachedWarning)
        asyncio.run(serve())


async def in_turns(model: Any, seed: int) -> Tensor:
    for image in steps(model, seed):  # noqa: B007
        await asyncio.sleep(0)
    return image


async def in_other_threads(model: Any, seed: int) -> Tensor:
    run = steps(model, seed)
    with rfc_compile.trajectory(f"request {seed}"):
        for _ in range(STEPS):
            image = await asyncio.to_thread(next, run)
    return image


@pytest.mark.parametrize(
    ("serve", "form", "options"),
    [
        (in_turns, "whole", DYNAMIC),
        (in_turns, "blocks", STATIC),
        (in_other_threads, "whole", STATIC),
    ],
)
def test_asyncio_tasks(serve: Any, form: str, options: dict[str, Any]) -> None:
    """A task is a caller; where its steps hop from thread to thread, a name is."""
    model = Watched(form, **options).rfc

    async def serve_all() -> list[Tensor]:
        return await asyncio.gather(*(serve(model, seed) for seed in SEEDS))

    check_twins(asyncio.run(serve_all()), form, options)


@by_form
def test_two_models_in_turn_in_one_thread(form: str, options: dict[str, Any]) -> None:
    models = [Watched(form, **options).rfc for _ in range(3)]
    runs = [steps(model, seed) for model, seed in zip(models, SEEDS, strict=True)]
    for images in zip(*runs, strict=True):  # noqa: B007
        pass
    check_twins(list(images), form, options)


def test_a_pipeline_in_a_callback_of_another() -> None:
    """Both use one transformer, in turn: the inner run is its own, the outer is right.

    What the outer one does after it is a run that begins in the middle.
    """
    case = ALL["FluxPipeline"]
    uncached = case.run(case.pipeline(), 0)
    outer = compiled(case, INTERVAL)
    alone = case.run(outer, 7)
    rfc_compile.reset(outer.transformer)
    parts = {**outer.components, "scheduler": copy.deepcopy(outer.scheduler)}
    inner = FluxPipeline(**parts)
    inner.set_progress_bar_config(disable=True)
    images = []

    def callback(pipe: Any, step: int, t: Any, given: dict[str, Any]) -> Any:
        if step == 5:
            images.append(case.run(inner, 7))
        return given

    def call() -> dict[str, Any]:
        return {**case.call(), "callback_on_step_end": callback}

    found = replace(case, call=call).run(outer, 0)
    assert equal(images[0], alone)
    assert 0 < difference(found, uncached) < 0.1
    assert equal(case.run(outer, 7), alone)


@by_schedule
def test_a_copy_made_within_a_run(options: dict[str, Any]) -> None:
    """The run continues unchanged; the copy begins one of its own."""
    watched = Watched(**options)
    x = watched.begin(4, seed=SEEDS[0])
    other = copy.deepcopy(watched.rfc)
    images = [draw(other, SEEDS[1]), watched.run(x=x, first=4), draw(other, SEEDS[2])]
    images[:2] = images[1], images[0]
    check_twins(images, "whole", options)


def test_pickled_within_a_run() -> None:
    """What is compiled in place is sent as a plain model; the run continues."""
    model, plain = build(Stack), build(Stack)
    model.compile(backend="rfc", options={"inner": "eager", **STATIC})
    expected = draw(model, 1)
    run = steps(model, 1)
    for _ in range(4):
        next(run)
    other = pickle.loads(pickle.dumps(model))
    assert torch.equal(draw(other, 1), draw(plain, 1))
    *_, image = run
    assert torch.equal(image, expected)
    assert not torch.equal(image, draw(plain, 1))


def save_and_load(model: Any) -> None:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    model.load_state_dict(torch.load(file, weights_only=True))


def other_tensors(model: Any) -> None:
    weights = {name: 1.1 * value for name, value in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)


@pytest.mark.parametrize(
    ("change", "options"), [(save_and_load, DYNAMIC), (other_tensors, STATIC)]
)
def test_weights_that_change_within_a_run(
    change: Callable[[Any], None], options: dict[str, Any]
) -> None:
    """The next step is computed in full: values of other weights are never used."""
    watched = Watched(**options)
    x = watched.begin(4)
    change(watched.model)
    watched.run(x=x, first=4)
    assert watched.kinds[4] == "F"
    assert not watched.uncached_reasons


@pytest.mark.parametrize(
    ("dtype", "options"), [(torch.bfloat16, DYNAMIC), (torch.float16, STATIC)]
)
def test_another_type_within_a_run(dtype: torch.dtype, options: dict[str, Any]) -> None:
    """The model is moved to half precision in the midst of a run, and back."""
    watched = Watched(**options)
    watched.model.time.__class__ = TimeOfAnyType
    x = tokens(5)
    for step in range(3 * STEPS):
        kind = dtype if step // STEPS == 1 else torch.float32
        watched.model.to(kind)
        x = x.to(kind) - 0.03 * watched(x.to(kind), at(step), TEXT.to(kind))
    assert watched.kinds[STEPS] == "F"
    assert "C" in watched.kinds[STEPS : 2 * STEPS]
