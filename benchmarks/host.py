"""What a cached step costs the host: microseconds around its graphs, functions entered.

Two models: a DiT of 30 blocks and 576 parameters with every module a region (60), and
a small FLUX with the default, one region. Runs of 50 steps by Euler's method, once with
the number of steps known (a pipeline, `trajectory(num_steps=)`) and once without. The
graphs run by the eager inner backend, and the time is that of the runtime around them:
neither they nor Dynamo's guards are in it; they run on the host too, and their memory
traffic empties the processor's caches. Functions are those of this package,
comprehensions left out.
"""

import gc
import itertools
import statistics
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor, nn

import rfc_compile
import rfc_compile.passes
from benchmarks.random_models import inputs_of, tiny_flux
from benchmarks.report import Grid, console, publish
from benchmarks.speed import fresh_compiler
from rfc_compile.runtime.registry import Dispatcher, dispatchers_of
from rfc_compile.tools.bench.workloads import random_dit

TARGET: Final = 120.0
"""Microseconds of a cached step of the DiT in place."""

FUNCTIONS: Final = 90
"""Functions of this package that a cached step enters."""

STEPS: Final = 50

SCHEDULES: Final[dict[str, dict[str, Any]]] = {
    "static": {"schedule": "interval", "interval": 4, "corrector": "off"},
    "rcs": {"schedule": "rcs", "threshold": 1e9, "max_cached_run": 3},
    "default": {},
}

_OURS: Final = tuple(
    str(Path(package.__path__[0])) for package in (rfc_compile, rfc_compile.passes)
)
_INLINED: Final = {"<listcomp>", "<setcomp>", "<dictcomp>"}
"""No functions from Python 3.12 on."""


@dataclass(frozen=True)
class Subject:
    """A model, and the timesteps at the start and at the end of a run."""

    name: str
    make: Callable[[], nn.Module]
    batch: int
    times: tuple[float, float]
    options: Mapping[str, Any]


def dit() -> Subject:
    """30 blocks, 60 regions, 576 parameters."""
    make = partial(random_dit, heads=2, head_width=8, layers=30, side=8)
    return Subject("DiT, 60 regions", make, 2, (999, 0), {"granularity": "module"})


def flux() -> Subject:
    """Two joint and two single blocks, one region."""
    return Subject("FLUX, 1 region", partial(tiny_flux, 2, 2), 1, (1, 0.02), {})


@dataclass(frozen=True)
class HostCost:
    """What cached steps of one setting cost.

    Attributes:
        known: whether the number of steps is known.
        in_place: microseconds of every cached step, behind graphs.
        functions: how many the median step enters, by file.
    """

    model: str
    schedule: str
    known: bool
    in_place: list[float] = field(default_factory=list)
    functions: dict[str, int] = field(default_factory=dict)

    @property
    def entered(self) -> int:
        """Functions of all files."""
        return sum(self.functions.values())

    def row(self) -> list[str]:
        """One line of the table."""
        known = "known" if self.known else "not known"
        low, middle, high = statistics.quantiles(self.in_place, n=4)
        time = f"{middle:.0f} [{low:.0f}, {high:.0f}]"
        counts = [str(self.entered), str(len(self.functions))]
        return [self.model, self.schedule, known, time, *counts]


class Driver:
    """Runs of one compiled model, step by step."""

    def __init__(
        self, subject: Subject, schedule: str, *, known: bool, steps: int = STEPS
    ) -> None:
        torch.compiler.reset()
        self._steps = steps
        self._subject, self._known, self._runs = subject, known, 0
        self._model = subject.make()
        options = {**subject.options, **SCHEDULES[schedule], "inner": "eager"}
        self._ours = torch.compile(self._model, backend="rfc", options=options)

    def cached_steps(self, watch: Callable[[Callable[[], Any]], Any]) -> list[Any]:
        """What ``watch`` gives of the call of every cached step of a run."""
        self._runs += 1
        scope: AbstractContextManager[None] = nullcontext()
        if self._known:
            scope = rfc_compile.trajectory(f"run {self._runs}", num_steps=self._steps)
        with scope, torch.no_grad():
            return list(self._watched(watch))

    def _watched(self, watch: Callable[[Callable[[], Any]], Any]) -> Iterator[Any]:
        subject, generator = self._subject, torch.Generator().manual_seed(0)
        inputs = inputs_of(self._model, subject.batch)
        latent = torch.randn(inputs["hidden_states"].shape, generator=generator)
        first, last = subject.times
        for step in range(self._steps):
            inputs["hidden_states"] = latent
            at = first + (last - first) * step / self._steps
            inputs["timestep"] = torch.full_like(inputs["timestep"], at)
            given: list[Tensor] = []
            calls = self._calls_of_full()
            seen = watch(partial(_call_into, given, self._ours, inputs))
            if self._calls_of_full() == calls:
                yield seen
            latent = latent - given[0].narrow(1, 0, latent.shape[1]) / self._steps

    def _calls_of_full(self) -> int:
        return sum(d.graphs["full"].calls for d in self._dispatchers)

    @property
    def _dispatchers(self) -> list[Dispatcher]:
        return dispatchers_of(self._model)

    def microseconds(self, call: Callable[[], Any]) -> float:
        """The host's time of one call around its graphs."""
        before = sum(map(_host_seconds, self._dispatchers))
        call()
        return 1e6 * (sum(map(_host_seconds, self._dispatchers)) - before)


def _call_into(
    results: list[Tensor], model: Callable[..., Any], inputs: Mapping[str, Tensor]
) -> None:
    results.append(model(**inputs)[0])


def _host_seconds(dispatcher: Dispatcher) -> float:
    """Time in the runtime around the graphs, those of compilation left out."""
    graphs = dispatcher.graphs.values()
    inside = sum(graph.seconds + graph.compile_seconds for graph in graphs)
    return dispatcher.seconds - inside


def functions_entered(call: Callable[[], Any]) -> Counter[str]:
    """How often a call enters functions of this package, by file."""
    frames: list[FrameType] = []
    gc.collect()
    gc.disable()  # it closes generators of others, which enters them

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_OURS):
            frames.append(frame)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        gc.enable()
    once = dict.fromkeys(frames)  # a generator goes on in the same frame
    codes = [frame.f_code for frame in once if frame.f_code.co_name not in _INLINED]
    return Counter(str(Path(code.co_filename).name) for code in codes)


def functions_of(
    subject: Subject, schedule: str, *, known: bool, steps: int = STEPS
) -> Counter[str]:
    """Those of a typical cached step: the median of the second run of a model."""
    with fresh_compiler():
        driver = Driver(subject, schedule, known=known, steps=steps)
        driver.cached_steps(lambda call: call())
        entered = sorted(driver.cached_steps(functions_entered), key=Counter.total)
        return entered[len(entered) // 2]


def measure(subject: Subject, schedule: str, *, known: bool, runs: int) -> HostCost:
    """Time so many runs of a setting, after one that is not timed."""
    functions = functions_of(subject, schedule, known=known)
    cost = HostCost(subject.name, schedule, known, functions=dict(functions))
    with fresh_compiler():
        driver = Driver(subject, schedule, known=known)
        driver.cached_steps(lambda call: call())
        for _ in range(runs):
            cost.in_place.extend(driver.cached_steps(driver.microseconds))
    return cost


def run(args: Namespace) -> None:
    """Measure every model by every schedule, the steps known and not."""
    costs = []
    for subject, schedule, known in itertools.product(
        (dit(), flux()), SCHEDULES, (True, False)
    ):
        console.print(f"measuring {subject.name}, {schedule}, {known=}")
        runs = 2 if args.quick else 10
        costs.append(measure(subject, schedule, known=known, runs=runs))
    header = ["model", "schedule", "steps", "us in place: median [quartiles]"]
    header += ["functions", "files"]
    grid = Grid("A cached step around its graphs", header, [c.row() for c in costs])
    missed = [
        f"missed: {cost.model}, {cost.schedule}, steps "
        f"{'known' if cost.known else 'not known'}: {median:.0f} us in place (target "
        f"{TARGET:.0f}), {cost.entered} functions (target {FUNCTIONS})"
        for cost in costs
        for median in [statistics.median(cost.in_place)]
        if median > TARGET or cost.entered > FUNCTIONS
    ]
    data = {"costs": [asdict(cost) for cost in costs]}
    publish("host", "What the runtime costs the host", data, [grid], missed)
