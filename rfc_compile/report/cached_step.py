"""What a cached step still runs, beside a full one.

The share of the FLOPs says what a large model saves. In a small one the time of a step
is that of its operations, and what lies outside of the regions costs more than its
FLOPs: so operations and time are given as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rfc_compile.graph_report import GraphReport

NAMED = 3
"""Modules that are named, those with the most FLOPs."""


@dataclass(frozen=True)
class CachedStep:
    """A cached step beside a full one.

    Attributes:
        flops: its share of the FLOPs, 0 to 1.
        operations: that it runs, views not counted.
        full_operations: that a full step runs.
        modules: paths of the modules where most of its FLOPs are, most first.
        time: its share of the time of a full step, as measured in the runs so far; None
            where there were none, or on an accelerator, which runs behind the host.
    """

    flops: float
    operations: int
    full_operations: int
    modules: tuple[str, ...]
    time: float | None

    def __str__(self) -> str:
        where = f", most of them in {', '.join(self.modules)}" if self.modules else ""
        measured = "" if self.time is None else f"; it took {self.time:.0%} of the time"
        return (
            f"a cached step still runs {self.flops:.1%} of the FLOPs{where}; "
            f"{self.operations:,} operations, a full one {self.full_operations:,}"
            f"{measured}"
        )


def cached_step(reports: Sequence[GraphReport]) -> CachedStep | None:
    """The sum over all graphs of a forward; None where no graph is cached.

    A graph that runs uncached costs as much as ever.
    """
    costs = [
        (report.cached_cost, report.full_cost)
        for report in reports
        if report.cached_cost is not None and report.full_cost is not None
    ]
    if not costs:
        return None
    uncached = sum(report.flops for report in reports if report.cached_cost is None)
    full = uncached + sum(cost.flops for _, cost in costs)
    work = sum((cost.modules for cost, _ in costs), Counter[str]())
    return CachedStep(
        flops=(uncached + sum(cost.flops for cost, _ in costs)) / full if full else 0.0,
        operations=sum(cost.operations for cost, _ in costs),
        full_operations=sum(cost.operations for _, cost in costs),
        modules=tuple(path for path, _ in work.most_common(NAMED)),
        time=_share_of_time(reports),
    )


def _share_of_time(reports: Sequence[GraphReport]) -> float | None:
    cached = full = 0.0
    for report in reports:
        dispatcher = None if report.dispatcher is None else report.dispatcher()
        if dispatcher is None or not _on_cpu(report):
            return None
        graphs = dispatcher.graphs
        if not graphs["cached"].calls or not graphs["full"].calls:
            return None
        cached += _seconds(graphs, "probe") + _seconds(graphs, "cached")
        full += _seconds(graphs, "probe") + _seconds(graphs, "full")
    return cached / full if full else None


def _seconds(graphs: Mapping[str, Any], name: str) -> float:
    """Time of a call, in seconds; 0 where there is no such graph."""
    graph = graphs.get(name)
    return graph.seconds / graph.calls if graph is not None and graph.calls else 0.0


def _on_cpu(report: GraphReport) -> bool:
    tensors = [reference() for reference in report.tensors.values()]
    return all(tensor is None or tensor.is_cpu for tensor in tensors)
