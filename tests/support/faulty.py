"""What fault tests share: runs whose every step is watched, backends that fail."""

from __future__ import annotations

import contextlib
import copy
import functools
import linecache
import os
import pathlib
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import torch
from model_zoo import ZOO
from models import Time, build, embed_time, text_tokens, timesteps, tokens
from torch import Tensor, fx
from torch._dynamo import register_backend
from torch.nn import functional as F

import rfc_compile
from rfc_compile.runtime import registry
from rfc_compile.schedules.decision import Decision

STATIC = {"schedule": "interval", "interval": 3, "warmup": 2}
DYNAMIC = {"threshold": 2.0, "warmup": 2, "max_cached_run": 2}
SCHEDULES = {"static": STATIC, "dynamic": DYNAMIC}
STEPS = 9
TEXT = text_tokens()
TOLERANCE = 0.1
"""Largest relative error of a cached step; those of undisturbed runs are below 0.03."""


EXACT = {"corrector": "off"}
"""A full step returns what the uncorrected model does."""


class Watched:
    """A small text-conditioned model behind the backend, compared at every call.

    ``plain`` is the same model uncompiled, or a copy where it is compiled in place,
    block by block. ``kinds`` has a letter for every call: F full, C cached, U uncached.
    """

    def __init__(self, form: str = "whole", **options: Any) -> None:
        self.form, self.options = form, options.copy()
        self.model = build(ZOO["CrossBlock"])
        dynamic = options.pop("dynamic", None)
        settings: dict[str, Any] = {
            "backend": "rfc",
            "dynamic": dynamic,
            "options": {"inner": "eager", "min_coverage": 0.0, **EXACT, **options},
        }
        if form == "whole":
            self.plain, self.rfc = self.model, torch.compile(self.model, **settings)
        else:
            self.plain, self.rfc = copy.deepcopy(self.model), self.model
            for block in self.model.blocks:
                block.compile(**settings)
        self.kinds = ""

    def __call__(self, x: Tensor, t: Tensor, text: Tensor = TEXT) -> Tensor:
        """The uncached result, after that of the compiled model was compared with it.

        What is not cached is the same, NaN included; what is cached is close.
        """
        before = self.decision
        with torch.no_grad():
            found, expected = self.rfc(x, t, text), self.plain(x, t, text)
        decision = self.decision
        uncached = decision is before or decision is None
        self.kinds += "U" if uncached else "F" if decision.full else "C"
        if self.kinds[-1] == "C":
            assert (found - expected).norm() < TOLERANCE * expected.norm(), self.kinds
        else:
            same = torch.allclose(found, expected, rtol=0, atol=1e-6, equal_nan=True)
            assert same, (self.kinds, decision)
        return found

    def run(self, seed: int = 0, *, first: int = 0, x: Tensor | None = None) -> Tensor:
        """The image of a run of STEPS steps, or of the last ones from ``x`` on."""
        x = tokens(seed) if x is None else x
        for step in range(first, STEPS):
            x = self.step(x, step)
        return x

    def step(self, x: Tensor, step: int) -> Tensor:
        """One step of a run."""
        return x - 0.03 * self(x, at(step))

    def begin(self, steps: int, seed: int = 5) -> Tensor:
        """The latents after the first steps of a run."""
        x = tokens(seed)
        for step in range(steps):
            x = self.step(x, step)
        return x

    @property
    def decision(self) -> Decision | None:
        """The last decision."""
        return next(iter(rfc_compile.stats(self.rfc).decisions[::-1]), None)

    @property
    def reason(self) -> str:
        """Why the last decision was as it was."""
        assert self.decision is not None
        return self.decision.reason

    @property
    def uncached_reasons(self) -> str:
        """What ran uncached, and why."""
        return "; ".join(rfc_compile.explain(self.rfc).uncached_reasons)

    def check_clean(self) -> None:
        """The next run is that of a model that was just compiled, bit for bit."""
        self.kinds = ""
        image = self.run(FRESH_SEED)
        expected, kinds = fresh(self.form, **self.options)
        assert self.kinds == kinds, self.uncached_reasons
        assert torch.equal(image, expected)


FRESH_SEED = 1


@functools.cache
def fresh(form: str, **options: Any) -> tuple[Tensor, str]:
    """The image of a model that has drawn nothing before, and what was cached."""
    watched = Watched(form, **options)
    image = watched.run(FRESH_SEED)
    assert set(watched.kinds) == {"F", "C"}
    return image, watched.kinds


class TimeOfAnyType(Time):
    """The timestep's features in the type of the weights."""

    def forward(self, t: Tensor) -> Tensor:
        features = embed_time(t).to(self.up.weight.dtype)
        return self.down(F.silu(self.up(features)))


def at(step: int) -> Tensor:
    """The timesteps of a step."""
    return timesteps(20 - step)


def states_of(watched: Watched) -> list[Any]:
    """The states of all branches of a model, those of followers included."""
    return [
        state
        for dispatcher in registry.dispatchers_of(watched.rfc)
        for scope in dispatcher.sessions()
        if scope.current is not None
        for branch in scope.current.branches
        for state in (branch.state, *branch.followers.values())
    ]


LARGE, SPARE = 8_000, 190 << 20
"""Samples whose forward fits into these bytes, and whose state does not."""


def _address_space() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """The allocator gets SPARE bytes more, then nothing."""
    before, held = _address_space(), []
    while _address_space() == before:  # first what it has kept for itself
        held.append(tokens(batch=LARGE))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + SPARE, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


refused: list[int] = []
"""Which graphs ``refusing`` does not compile, counted from 1."""
given: list[fx.GraphModule] = []


@register_backend  # type: ignore[misc]
def refusing(gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    """An inner backend that fails for some graphs."""
    given.append(gm)
    if len(given) in refused:
        raise RuntimeError(f"graph {len(given)} is too hard\nfor this backend")
    return gm.forward


PACKAGE = os.path.dirname(rfc_compile.__file__)


class InterruptAt:
    """Ctrl-C at the n-th line of the runtime after the first graph of a call has run.

    ``reached`` tells whether there were as many. Dynamo does not run compiled code
    while lines are traced, so tracing starts in the graph (of backend ``breaking``).
    The lines of ``with`` statements are left out: Python is at such a line again before
    it leaves the block, where a signal is never handled.
    """

    armed: InterruptAt | None = None

    def __init__(self, line: int) -> None:
        self._left = line
        self.reached = False

    def __enter__(self) -> InterruptAt:
        InterruptAt.armed = self
        return self

    def __exit__(self, *_: object) -> None:
        InterruptAt.armed = None
        sys.settrace(None)

    def trace(self) -> None:
        """Trace the rest of the frames of the package."""
        InterruptAt.armed = None
        frame: FrameType | None = sys._getframe()
        sys.settrace(self._trace)
        while frame is not None:
            if frame.f_code.co_filename.startswith(PACKAGE):
                frame.f_trace = self._trace
            frame = frame.f_back

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and not self._guards_nothing(frame):
            self._left -= 1
            if self._left == 0:
                self.reached = True
                raise KeyboardInterrupt
        return self._trace

    @staticmethod
    def _guards_nothing(frame: FrameType) -> bool:
        """No signal arrives there, and CPython runs no `__exit__` behind it."""
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        return line.lstrip().startswith(("with ", "try:"))


class Break(fx.Interpreter):
    """Runs a graph up to a share of its nodes, if a share is set."""

    share: float | None = None

    def run(self, *inputs: Any, **options: Any) -> Any:
        results = super().run(*inputs, **options)
        if InterruptAt.armed is not None:
            InterruptAt.armed.trace()
        return results

    def run_node(self, n: fx.Node) -> Any:
        nodes = list(self.graph.nodes)
        if self.share is not None and n is nodes[int(self.share * (len(nodes) - 1))]:
            Break.share = None
            raise KeyboardInterrupt
        return super().run_node(n)


@register_backend  # type: ignore[misc]
def breaking(gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    """An inner backend whose graphs can be interrupted anywhere."""
    return Break(gm).run


def steps(model: Any, seed: int) -> Iterator[Tensor]:
    """The latents after every step of a run."""
    x = tokens(seed)
    for step in range(STEPS):
        with torch.no_grad():
            x = x - 0.03 * model(x, at(step), TEXT)
        yield x


def draw(model: Any, seed: int) -> Tensor:
    """The image of a run."""
    *_, image = steps(model, seed)
    return image


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """The results of functions that begin together, each in a thread of its own."""
    ready = threading.Barrier(len(works))

    def begin(work: Callable[[], Any]) -> Any:
        ready.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(begin, w) for w in works]]
