"""What ``explain`` and ``stats`` return, and how it is shown."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from rfc_compile.graph_report import (
    GraphReport,
    RegionInfo,
    coverage_of,
    model_of,
    newest_of_each_part,
    reports_of,
    tensor_ids,
    uncached_reasons,
)
from rfc_compile.passes.analysis.records import Refusal
from rfc_compile.report.cached_step import CachedStep, cached_step
from rfc_compile.report.drawing import drawing
from rfc_compile.report.numbers import counted, scaled, size
from rfc_compile.report.region_errors import GraphMap, maps_of
from rfc_compile.runtime.ranks import gathers_weights
from rfc_compile.runtime.registry import (
    newest_run,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_NOTHING: Final = (
    "nothing to explain: no graph of this model was compiled with backend='rfc' yet; "
    "compile it and call it once (a method other than forward, as forward_with_cfg, "
    "calls forward uncompiled: model.forward = torch.compile(model.forward, "
    "backend='rfc'); a function that another torch.compile compiles takes the model "
    "in: give that one backend='rfc')"
)


@dataclass(frozen=True)
class Explanation:
    """What the backend did with a model; ``str()`` gives a table.

    Attributes:
        graphs: graphs that the model was compiled into.
        regions: the regions that are cached.
        coverage: share of all FLOPs inside regions, 0 to 1.
        block_coverage: share of the repeated blocks' FLOPs inside regions, 0 to 1.
        refused: candidates that are not cached.
        uncached_reasons: why a forward, or steps of it, run uncached.
        timestep: name of the timestep input of each cached graph.
        graph_breaks: why Dynamo cut the forward into several graphs.
        notes: what the runtime noted about the calls.
        cache_bytes: state kept for one CFG branch of one trajectory, in bytes: that of
            the regions, and the latent and the input that distinguishes steps.
        maps: what ``plot`` draws, one for each graph with regions.
        cached_step: what a cached step still runs; None where nothing is cached.
        parts: of the model, each of which is one of the graphs; more graphs than
            parts serve other shapes or values.
    """

    graphs: int
    regions: tuple[RegionInfo, ...]
    coverage: float
    block_coverage: float
    refused: tuple[Refusal, ...]
    uncached_reasons: tuple[str, ...]
    timestep: tuple[str, ...]
    graph_breaks: tuple[str, ...]
    notes: tuple[str, ...]
    cache_bytes: int = 0
    maps: tuple[GraphMap, ...] = ()
    cached_step: CachedStep | None = None
    parts: int = 0

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """The name of ``uncached_reasons`` in 0.1."""
        return self.uncached_reasons

    def plot(self) -> Figure:
        """The residual streams with the regions, coloured twice.

        By the FLOPs saved in the newest trajectory (before the first one: by a cached
        step), and by the prediction error, where it is known. Needs matplotlib, which
        the extra `demo` has.

        Raises:
            ModuleNotFoundError: there is no matplotlib.
        """
        figure: Figure = drawing("explanation_plot").explanation_figure(self)
        return figure

    def _compiled(self) -> str:
        parts = counted(self.parts, "graph")
        if self.graphs == self.parts:
            return parts
        return f"{parts}, of {self.graphs} compiled for different inputs"

    def __str__(self) -> str:
        """A table of the regions, then the refusals and why calls run uncached."""
        reasons = [f"uncached: {reason}" for reason in self.uncached_reasons]
        if not self.graphs:
            return "\n".join(reasons or [_NOTHING])
        rows = [
            (
                region.name,
                region.kind,
                region.module,
                scaled(region.flops, "FLOP"),
                size(region.cache_bytes),
            )
            for region in self.regions
        ]
        header = ("region", "kind", "module", "work", "state")
        whole = "FLOPs of the graphs" if self.graph_breaks else "FLOPs"
        lines = [
            f"{self._compiled()}; cached steps predict "
            f"{counted(len(self.regions), 'region')} with {self.coverage:.1%} of the "
            f"{whole}; {size(self.cache_bytes)} of state for each guidance branch",
            *_table([header, *rows] if rows else []),
            *([str(self.cached_step)] if self.cached_step else []),
            *dict.fromkeys(f"timestep input: {name}" for name in self.timestep),
            *dict.fromkeys(f"refused: {x.candidate}: {x.reason}" for x in self.refused),
            *reasons,
            *(f"graph break: {reason}" for reason in self.graph_breaks),
            *(f"note: {text}" for text in self.notes),
        ]
        return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _state_bytes(reports: Sequence[GraphReport], ids: Set[int] | None) -> int:
    """State of one CFG branch: the first layer leads, the others follow.

    A layer that Dynamo has compiled again keeps state for the newest graph only.
    """
    graph_of: dict[Hashable, GraphReport] = {}
    for report in (report for report in reports if report.state_bytes):
        layers = [x for x in list(report.layers) if ids is None or ids & x]
        names: Sequence[Hashable] = layers or [report.number]
        graph_of.update(dict.fromkeys(names, report))
    leading = min(graph_of.values(), key=lambda report: report.number, default=None)
    own = 0 if leading is None else leading.state_bytes - leading.following_bytes
    return own + sum(report.following_bytes for report in graph_of.values())


def explain(model: Any = None) -> Explanation:
    """What the backend found in a compiled model and what it left alone.

    Call it after the model's first forward; before it, there is nothing to explain.
    Takes a module or a pipeline of diffusers; None explains every graph of the process.

    Raises:
        TypeError: the model is something else.
    """
    model = model_of(model)
    sharded = model is not None and gathers_weights(model)
    shown = None if sharded else model
    reports = reports_of(shown)
    found = explanation_of(reports, tensor_ids(shown))
    maps = maps_of(newest_of_each_part(reports), newest_run(shown))
    found = replace(found, maps=maps)
    if model is None:
        return found
    if not found.graphs and any(p.is_meta for p in model.parameters()):
        reason = (
            "its weights are on the meta device between calls, as offloading leaves "
            "them: no graph is known to be its own, explain() shows those of all models"
        )
        return replace(found, uncached_reasons=(reason,))
    if sharded:
        reason = (
            "its weights are sharded between calls (fully_shard), so its graphs are "
            "not known to be its own: explain() and stats() show those of all models"
        )
        return replace(found, notes=(*found.notes, reason))
    return found


def explanation_of(
    reports: Sequence[GraphReport], ids: Set[int] | None = None
) -> Explanation:
    """What was found in these graphs; ``ids`` are of the model's parameters.

    Regions, FLOPs and inputs are those of the graphs that ran last: a part of the
    model that is compiled again for other inputs counts once.
    """
    every, reports = reports, newest_of_each_part(reports)
    regions = tuple(region for report in reports for region in report.regions)
    blocks = sum(report.block_flops for report in reports)
    inside = sum(region.flops for region in regions)
    missing = (r.missing_timestep for r in reports if r.missing_timestep is not None)
    notes = itertools.chain(missing, *(report.notes for report in every))
    return Explanation(
        graphs=len(every),
        parts=len(reports),
        regions=regions,
        coverage=coverage_of(reports),
        block_coverage=min(1.0, inside / blocks) if blocks else 0.0,
        refused=tuple(item for report in reports for item in report.refused),
        uncached_reasons=uncached_reasons(every),
        timestep=tuple(r.timestep for r in reports if r.timestep is not None),
        graph_breaks=tuple(
            dict.fromkeys(r.graph_break for r in every if r.graph_break is not None)
        ),
        notes=tuple(dict.fromkeys(notes)),
        cache_bytes=_state_bytes(reports, ids),
        cached_step=cached_step(reports),
    )
