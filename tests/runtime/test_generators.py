"""Generators that name their runs, in turn, left open or closed elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import torch
from faulty import SCHEDULES, STATIC, STEPS, Watched, at_once, draw, steps
from torch import Tensor

import rfc_compile

SEEDS = (1, 2, 3)


def named_steps(
    model: Any, seed: int, num_steps: int | None = None
) -> Iterator[Tensor]:
    """A generator that is left inside of its block at every step."""
    with rfc_compile.trajectory(f"generator {seed}", num_steps=num_steps):
        yield from steps(model, seed)


@pytest.mark.parametrize("options", SCHEDULES.values(), ids=list(SCHEDULES))
def test_generators_that_name_themselves(options: dict[str, Any]) -> None:
    """Interleaved, their names overlap; calls are distinguished all the same."""
    watched = Watched(**options)
    runs = [named_steps(watched, seed) for seed in SEEDS]
    for _ in itertools.zip_longest(*runs):
        pass
    assert len(watched.kinds) == len(SEEDS) * STEPS
    watched.check_clean()


@pytest.mark.parametrize("num_steps", [None, STEPS])
def test_interleaved_generators_are_called_by_their_own_names(
    num_steps: int | None,
) -> None:
    """What the newest one has set is seen by all: their frames tell them apart."""

    def named(model: Any, seed: int) -> list[Iterator[Tensor]]:
        return [named_steps(model, seed + i, num_steps) for i in range(2)]

    together = Watched(**STATIC).rfc
    *_, images = zip(*named(together, 1), strict=True)
    for image, run in zip(images, named(Watched(**STATIC).rfc, 1), strict=True):
        *_, alone = run
        assert torch.equal(image, alone)
    draw(together, 3)
    name = rfc_compile.stats(together).name
    assert name.startswith("thread"), "a block that has been left names nothing"


def test_a_context_manager_may_name_its_block() -> None:
    """Its generator is not running when the block calls the model."""

    @contextlib.contextmanager
    def named() -> Iterator[None]:
        with rfc_compile.trajectory("of a block", num_steps=STEPS):
            yield

    model = Watched(**STATIC).rfc
    with named():
        draw(model, 1)
    assert rfc_compile.stats(model).cache_bytes == 0, "a run of a known length ends"


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_abandoned_generator() -> None:
    """Closed elsewhere, as the collector or an event loop does it, or left open."""
    watched = Watched(**STATIC)

    async def left_early() -> None:
        async def run() -> AsyncIterator[Tensor]:
            for image in named_steps(watched, 1):
                yield image

        async for _ in run():
            break

    for close in (lambda run: at_once(run.close), lambda run: None):
        run = named_steps(watched, 2)
        next(run)
        next(run)
        close(run)
        asyncio.run(left_early())
        del run
        gc.collect()
    watched.check_clean()
