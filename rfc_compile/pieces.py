"""Pieces of a broken forward that hold no region: is there one that does?

    hook | linear | hook | linear | hook     nothing is cached: say so
    hook | block  | hook | block  | hook     the hooks cost nothing

A piece does not see the others, so it says so when it has been called again and again
without a call of a graph with regions in between.
"""

from __future__ import annotations

from typing import Any

from rfc_compile.observe import GraphReport
from rfc_compile.torch_internals import CompiledGraph

CALLS = 3
"""Calls in a row after which no graph with regions is expected."""

_with_regions = 0


def note_call_with_regions() -> None:
    """A graph with regions is called."""
    global _with_regions
    _with_regions += 1


class Uncached:
    """A graph that runs as it is; its report stays with it."""

    def __init__(self, compiled: CompiledGraph, report: GraphReport) -> None:
        self.report = report
        self._compiled = compiled
        self._seen = -1
        self._calls = 0

    def __call__(self, *arguments: Any) -> Any:
        """One call of the graph."""
        if self.report.piece and self._calls < CALLS:
            self._look_for_regions()
        return self._compiled(*arguments)

    def _look_for_regions(self) -> None:
        self._calls = self._calls + 1 if self._seen == _with_regions else 1
        self._seen = _with_regions
        if self._calls == CALLS:
            self.report.fall_back(
                "graph breaks (see explain) cut the forward into pieces, and no piece "
                "that runs holds an attention or MLP on a residual stream"
            )
