"""One setting measured against the uncached model: images, full steps, time.

    reference = draw_reference(target, seeds)      once, without caching
    trial = measure(target, options, reference)    images with eager graphs
    trial = measure(..., repeats=3)                and times under inductor

Needs the extra `demo`.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from rfc_compile.config.options import Options
from rfc_compile.config.tuned_file import Measured
from rfc_compile.dynamo_frames import CompileCounts
from rfc_compile.report.explain import explain
from rfc_compile.report.statistics import stats
from rfc_compile.runtime.registry import dispatchers_of, reset
from rfc_compile.schedules.decision import Decision
from rfc_compile.tools.measure.reference import (
    Reference,
    draw_with,
    similarity,
)
from rfc_compile.tools.measure.target import Target


@dataclass(frozen=True)
class Run:
    """One drawing of one seed: images (B, ...) on the CPU, and what was decided.

    There is a decision for each call, fewer where calls were uncached.
    """

    images: Tensor
    decisions: tuple[Decision, ...]
    calls: int

    @property
    def branches(self) -> int:
        """CFG branches that called the model in turn."""
        return 1 + max((d.branch for d in self.decisions), default=0)

    @property
    def steps(self) -> float:
        """Calls of the model for one branch."""
        return self.calls / self.branches

    @property
    def nfc(self) -> float:
        """Calls computed in full, for one branch."""
        cached = sum(not d.full for d in self.decisions)
        return (self.calls - cached) / self.branches


@dataclass(frozen=True)
class Trial:
    """One setting: its numbers, its runs, and why calls ran uncached, if any did."""

    measured: Measured
    runs: tuple[Run, ...]
    uncached: tuple[str, ...] = ()


def forget_compiled() -> None:
    """Drop everything compiled, so that nothing is said of it any more."""
    torch.compiler.reset()
    gc.collect()


def compile_model(
    model: nn.Module,
    inner: str,
    options: Mapping[str, Any] | None = None,
    *,
    dynamic: bool | None = None,
) -> nn.Module:
    """A model compiled by `inner`, with caching if there are options."""
    backend, chosen = inner, None
    if options is not None:
        backend, chosen = "rfc", {**options, "inner": inner}
    compiled: Any = torch.compile(
        model, backend=backend, options=chosen, dynamic=dynamic
    )
    return cast(nn.Module, compiled)


def draw_cached(target: Target, compiled: nn.Module, seed: int) -> Run:
    """One run of a compiled model, with what was decided at every call."""
    reset(compiled)
    decisions: list[Decision] = []
    calls = 0

    def note(*_: object) -> None:
        nonlocal calls
        calls += 1
        decisions.extend(stats(compiled).decisions[-1:])

    with compiled.register_forward_hook(note):
        images = draw_with(target, compiled, seed)
    return Run(images, tuple(decisions), calls)


def compare(reference: Reference, compiled: nn.Module) -> Trial:
    """Draw the reference's seeds with a model compiled with caching."""
    counts = CompileCounts()
    target = reference.target
    runs = tuple(draw_cached(target, compiled, seed) for seed in reference.seeds)
    breaks, recompiles = counts.since()
    explanation = explain(compiled)
    branches = max(run.branches for run in runs)
    quality = similarity([run.images for run in runs], reference)
    measured = Measured(
        nfc=statistics.mean(run.nfc for run in runs),
        steps=round(statistics.mean(run.steps for run in runs)),
        state_bytes=explanation.cache_bytes * branches,
        graph_breaks=breaks,
        recompiles=recompiles,
        **quality,
    )
    return Trial(measured, runs, explanation.uncached_reasons)


def measure(
    target: Target,
    options: Mapping[str, Any],
    reference: Reference,
    *,
    repeats: int = 0,
    inner: str = "inductor",
) -> Trial:
    """One setting compiled afresh: images with eager graphs, then times if asked for.

    ``options`` are without `inner`, the backend whose graphs are timed, and that the
    uncached model is compiled with; ``repeats`` are timed pairs of runs.
    """
    forget_compiled()
    compiled = compile_model(target.model, "eager", options)
    trial = compare(reference, compiled)
    if not repeats:
        return trial
    times = asdict(TimedModel(target, options, reference.seeds, inner).times(repeats))
    for name in ("graph_breaks", "recompiles"):  # either may meet what the other misses
        times[name] = max(times[name], getattr(trial.measured, name))
    return replace(trial, measured=replace(trial.measured, **times))


@dataclass(frozen=True)
class Times:
    """Medians of timed runs, and what compiling met, by the names in `Measured`."""

    seconds: float
    uncached_seconds: float
    speedup: float
    graph_breaks: int
    recompiles: int


class TimedModel:
    """A model compiled twice, with and without caching, to be timed in turn."""

    def __init__(
        self,
        target: Target,
        options: Mapping[str, Any],
        seeds: Sequence[int],
        inner: str,
    ) -> None:
        forget_compiled()
        self._target, self._seeds = target, seeds
        self._uncached = compile_model(target.model, inner)
        draw_with(target, self._uncached, seeds[0])
        counts = CompileCounts()
        self._cached = compile_model(target.model, inner, options)
        for _ in range(2):  # graphs compile when they are first needed
            draw_with(target, self._cached, seeds[0])
        self._breaks, self._recompiles = counts.since()

    def times(self, repeats: int) -> Times:
        """Time pairs of runs."""
        pairs = []
        for repeat in range(repeats):
            seed = self._seeds[repeat % len(self._seeds)]
            before, after = (
                elapsed(partial(draw_with, self._target, model, seed))
                for model in (self._uncached, self._cached)
            )
            pairs.append((before, after))
        return Times(
            seconds=statistics.median(after for _, after in pairs),
            uncached_seconds=statistics.median(before for before, _ in pairs),
            speedup=statistics.median(before / after for before, after in pairs),
            graph_breaks=self._breaks,
            recompiles=self._recompiles,
        )

    def decide_by(self, options: Mapping[str, Any]) -> None:
        """Follow another schedule from now on, with the same graphs."""
        decide_by(self._cached, options)


def decide_by(compiled: nn.Module, options: Mapping[str, Any]) -> None:
    """Have a compiled model that has run before follow the schedule of options.

    Its graphs stay: other options that they depend on have no effect.
    """
    chosen = Options.from_mapping(options)
    for dispatcher in dispatchers_of(compiled):
        dispatcher.decide_by(chosen)


def elapsed(run: Callable[[], object]) -> float:
    """Seconds that a call takes, the accelerator's work included."""
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for the accelerator, where there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
