"""Run-time failures: back to the forward as Dynamo gave it.

If the state cannot be allocated, the call runs uncached. If the inner backend refuses a
graph of a step, this call and all later ones do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from rfc_compile.dynamo_frames import outermost_call
from rfc_compile.errors import InnerBackendFailed, NoRoomForState
from rfc_compile.graph_report import (
    GraphReport,
    all_reports,
    coverage_of,
    percent_below,
    run_numbers,
)
from rfc_compile.runtime.model_forward import add_uncached, graph_numbers
from rfc_compile.torch_internals import CompiledGraph, in_forward_mode

FORWARD_MODE = (
    "forward-mode derivatives are wanted, which cached steps do not have: calls inside "
    "of torch.autograd.forward_ad.dual_level() run uncached"
)


class WithUncached:
    """A dispatcher with the plain forward to run where it cannot."""

    def __init__(
        self,
        dispatcher: CompiledGraph,
        make_plain: Callable[[], CompiledGraph],
        report: GraphReport,
    ) -> None:
        self._dispatcher: CompiledGraph | None = dispatcher
        self._make_plain = make_plain
        self._plain: CompiledGraph | None = None
        self._report = report
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Sequence[Any]:
        """One forward: outputs as Dynamo's graph would return them."""
        self._report.last_run = next(run_numbers)
        dispatcher = self._dispatcher
        if in_forward_mode():  # Dynamo does not guard on it
            self._report.fall_back(FORWARD_MODE)
        elif dispatcher is not None:
            try:
                return dispatcher(*arguments)
            except NoRoomForState as full:
                reason = f"such calls run uncached: {full.reason}"
            except InnerBackendFailed as failed:
                self._dispatcher = None  # frees the state
                reason = f"{self._report.uncached}: {failed.reason}"
            self._report.fall_back(reason)
        with self._lock:
            if self._plain is None:
                self._plain = self._make_plain()
        return self._plain(*arguments)


FORWARDS = 3
"""Of a model, after which no graph with regions is expected any more."""

NO_REGION = (
    "graph breaks (see explain) split the forward, and no graph that runs has an "
    "attention or MLP on a residual stream"
)

LITTLE = (
    "graph breaks (see explain) leave regions with {} % of the FLOPs, less than "
    "min_coverage={:g}: little is saved"
)

_with_regions = 0


def note_call_with_regions() -> int:
    """A graph with regions is called; how many such calls there have been."""
    global _with_regions
    _with_regions += 1
    return _with_regions


class Uncached:
    """A graph that runs uncached; it keeps its report alive."""

    def __init__(
        self, compiled: CompiledGraph, report: GraphReport, min_coverage: float
    ) -> None:
        self.report, self._min_coverage = report, min_coverage
        self._compiled, self._number = compiled, next(graph_numbers)
        self._first_run = self._forwards = 0
        self._forward: object = None

    def __call__(self, *arguments: Any) -> Any:
        """One call of the graph."""
        before, self.report.last_run = self.report.last_run, next(run_numbers)
        if self.report.fragment and self._forwards < FORWARDS:
            self._look_for_regions(before)
        results = self._compiled(*arguments)
        if self.report.fragment:
            return add_uncached(self._number, arguments, results)
        return results

    def _look_for_regions(self, before: int) -> None:
        """Warn once if regions hold little of what has run in a few forwards.

        ``before`` is when this graph ran last: those that ran since are of its forward.
        """
        self._first_run = self._first_run or self.report.last_run
        forward = outermost_call()
        if forward is not None and forward is self._forward:
            return  # a forward may call a graph several times
        self._forward, self._forwards = forward, self._forwards + 1
        if self._forwards < FORWARDS:
            return
        self._forward = None
        own = [r for r in all_reports() if r.options == self.report.options]
        here = [report for report in own if report.last_run > before]
        text = NO_REGION
        if any(r.regions and r.last_run > self._first_run for r in own):
            coverage = coverage_of(here)
            if coverage >= self._min_coverage or not any(r.flops for r in here):
                return
            text = LITTLE.format(percent_below(coverage), self._min_coverage)
        if not any(text in report.uncached_reasons for report in here):
            self.report.fall_back(text)
