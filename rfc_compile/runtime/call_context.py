"""The context of a call: the owner of its trajectory, and what callers declare.

All of it is optional: without it, the timestep and the latent identify the step
(rfc_compile.runtime.placement).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, NamedTuple

from rfc_compile.config.run_options import AS_COMPILED, Row, RunOptions
from rfc_compile.errors import OptionError


class CallContext(NamedTuple):
    """What is known of a call before its inputs are read.

    Attributes:
        owner: of the trajectory: a name, a thread or a task.
        num_steps: steps of its run, None if unknown.
        run: number of its run, 0 where the boundaries of runs are not declared.
        iterations: of the sampling loop, None if unknown. A higher-order sampler calls
            the model more often, a model that shares the run is called less often.
        branch: name of its CFG branch, None if unknown.
        asked: options of the run that replace the model's.
        rows: name and options of each row of the batch; empty if not declared.
    """

    owner: str
    num_steps: int | None
    run: int
    iterations: int | None
    branch: str | None
    asked: RunOptions = AS_COMPILED
    rows: tuple[Row, ...] = ()

    @property
    def run_is_known(self) -> bool:
        """Whether the boundaries of the run are declared."""
        return self.run > 0 or self.num_steps is not None

    def by_row(self, count: int) -> list[CallContext]:
        """The context of each row of a batch; a request's rows are its branches."""
        if not self.rows:
            return [self] * count
        if len(self.rows) != count:
            raise OptionError(
                f"rows() has {len(self.rows)} rows for a batch of {count}: give one "
                "for each row of the batch, in its order"
            )
        seen: Counter[str] = Counter()
        contexts = []
        for row in self.rows:
            branch = f"row {seen[row.name]}"
            seen[row.name] += 1
            run = self.run, self.iterations
            contexts.append(CallContext(row.name, row.num_steps, *run, branch, row))
        return contexts


@dataclass(eq=False)
class _Named:
    """What a block names.

    Attributes:
        outer: what was named around it.
        over: whether it has been left. Generators in turn leave theirs in any order,
            and each sets again what it found.
    """

    name: str
    num_steps: int | None
    asked: RunOptions
    rows: tuple[Row, ...] = ()
    outer: _Named | None = None
    over: bool = False


_named: ContextVar[_Named | None] = ContextVar("rfc_trajectory", default=None)
_GENERATOR: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_named_in_generators: dict[int, _Named] = {}
"""By the frame of the generator whose block it is. What a generator sets stays set
where it yields to: of several in turn, the frames tell which one is running."""
_run: ContextVar[tuple[int, int | None]] = ContextVar("rfc_run", default=(0, None))
_branch: ContextVar[str | None] = ContextVar("rfc_branch", default=None)
_runs = itertools.count(1)


def named(
    name: str, num_steps: int | None, asked: RunOptions
) -> AbstractContextManager[None]:
    """Give calls inside the block an owner of this name, and options of their run."""
    return _named_inside(_Named(name, num_steps, asked))


def named_rows(rows: Sequence[Row]) -> AbstractContextManager[None]:
    """Declare which request each row of the calls inside the block belongs to."""
    return _named_inside(_Named("rows", None, AS_COMPILED, tuple(rows)))


def branch(name: str) -> AbstractContextManager[None]:
    """Name the CFG branch that calls inside the block belong to."""
    return _set_inside(_branch, name)


@contextlib.contextmanager
def _named_inside(value: _Named) -> Iterator[None]:
    key, names = _generator_of_the_block(), _named_in_generators
    value.outer, before = _innermost(), names.get(key)
    if key:
        names[key] = value
    try:
        with _set_inside(_named, value):
            yield
    finally:
        value.over = True
        if before is not None:
            names[key] = before
        else:
            names.pop(key, None)


def _generator_of_the_block() -> int:
    """The frame that enters ``trajectory`` or ``rows``; 0 if it is no generator's."""
    frame: FrameType | None = sys._getframe(1)
    helpers = (__name__, contextlib.__name__, "rfc_compile.runtime.run_boundaries")
    while frame is not None and frame.f_globals.get("__name__") in helpers:
        frame = frame.f_back
    return id(frame) if frame and frame.f_code.co_flags & _GENERATOR else 0


def _innermost() -> _Named | None:
    """What is named by the innermost block that has not been left."""
    named = _named.get()
    while named is not None and named.over:
        named = named.outer
    return named


def _named_by_running_generator() -> _Named | None:
    """What the innermost generator of this call's stack has named."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        named = _named_in_generators.get(id(frame))
        if named is not None:
            return named
        frame = frame.f_back
    return None


@contextlib.contextmanager
def _set_inside(variable: ContextVar[Any], value: object) -> Iterator[None]:
    """Reset the variable after the block, unless that ends in another context.

    The garbage collector closes a suspended generator in any context.
    """
    token = variable.set(value)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            variable.reset(token)


def begin_run(iterations: int | None = None) -> int:
    """The next call of this thread or task is the first of a run; its number.

    ``iterations`` is the number that the pipeline gives.
    """
    number = next(_runs)
    _run.set((number, iterations))
    return number


def leave_run(number: int) -> None:
    """Calls that follow belong to no run of a pipeline."""
    if _run.get()[0] == number:
        _run.set((0, None))


def current_context() -> CallContext:
    """The context of the current call."""
    named = _innermost()
    if _named_in_generators:
        named = _named_by_running_generator() or named
    run = _run.get()
    if named is None:
        return CallContext(_thread_or_task(), None, *run, _branch.get())
    steps, asked, rows = named.num_steps, named.asked, named.rows
    return CallContext(named.name, steps, *run, _branch.get(), asked, rows)


def _thread_or_task() -> str:
    thread = f"thread {threading.get_ident()}"
    if asyncio._get_running_loop() is None:  # costs less than an exception every step
        return thread
    return f"{thread} task {id(asyncio.current_task())}"
