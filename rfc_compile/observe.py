"""What users see: ``explain``, ``stats``, logs, warnings, graph dumps.

Every graph that the backend was given has a ``GraphReport``; a report belongs to a
model if the two have a parameter or buffer in common.
"""

from __future__ import annotations

import itertools
import logging
import threading
import warnings
import weakref
from collections.abc import Hashable, Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from rfc_compile.errors import BudgetWarning, UncachedWarning
from rfc_compile.explanation import Explanation, RegionInfo, Statistics
from rfc_compile.ranks import gathers_weights
from rfc_compile.region_maps import maps_of
from rfc_compile.subclasses import plain_tensors
from rfc_compile.torch_internals import dump_graph

if TYPE_CHECKING:
    from rfc_compile.dispatch import Dispatcher
    from rfc_compile.passes import Refusal
    from rfc_compile.scope import Scope
    from rfc_compile.streams import Streams
    from rfc_compile.trajectories import Decision, Trajectory

log = logging.getLogger("rfc_compile")


@dataclass(eq=False)
class GraphReport:
    """What became of one graph; lives as long as its compiled form.

    ``kept_as`` names, for every region and output, where its input and it are kept;
    ``state_bytes`` is the state of one CFG branch where the graph leads,
    ``following_bytes`` where it takes over the decisions of another.
    """

    number: int = field(default_factory=itertools.count().__next__)
    regions: tuple[RegionInfo, ...] = ()
    refused: tuple[Refusal, ...] = ()
    fallbacks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    flops: int = 0
    block_flops: int = 0
    streams: Streams | None = None
    kept_as: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    timestep: str | None = None
    graph_break: str | None = None
    piece: bool = False
    state_bytes: int = 0
    following_bytes: int = 0
    dispatcher: weakref.ref[Dispatcher] | None = None
    tensors: dict[int, weakref.ref[Tensor]] = field(default_factory=dict)
    layers: set[frozenset[int]] = field(default_factory=set)

    @property
    def coverage(self) -> float:
        """Share of the graph's FLOPs inside regions, 0 to 1."""
        inside = sum(region.flops for region in self.regions)
        return inside / self.flops if self.flops else 0.0

    def fall_back(self, reason: str) -> None:
        """Record why something runs uncached, and warn the first time."""
        if reason not in self.fallbacks:
            self.fallbacks.append(reason)
            warnings.warn(f"rfc_compile: {reason}", UncachedWarning, stacklevel=2)

    def warn(self, text: str) -> None:
        """Record that a wish cannot be met, and warn the first time."""
        if text not in self.notes:
            self.notes.append(text)
            warnings.warn(f"rfc_compile: {text}", BudgetWarning, stacklevel=2)

    def note(self, text: str) -> None:
        """Record something worth knowing about the runtime, and log it."""
        if text not in self.notes:
            self.notes.append(text)
            log.info(text)

    def reads(self, tensor: Tensor) -> None:
        """Record that the graph is called with this parameter or buffer."""
        self.tensors[id(tensor)] = weakref.ref(tensor)

    def belongs_to(self, ids: Set[int] | None) -> bool:
        """Whether the graph reads a tensor with one of these ids (None: any)."""
        return ids is None or any(
            i in self.tensors and self.tensors[i]() is not None for i in ids
        )


_reports: weakref.WeakSet[GraphReport] = weakref.WeakSet()
_lock = threading.Lock()  # other threads may compile while one looks for reports


def new_report(inputs: Iterable[Any]) -> GraphReport:
    """A registered report of a graph that reads these inputs."""
    report = GraphReport()
    for value in inputs:
        for plain in plain_tensors(value):
            if isinstance(plain, Tensor):
                report.reads(plain)
    with _lock:
        _reports.add(report)
    return report


def _all_reports() -> list[GraphReport]:
    with _lock:
        return list(_reports)


def tensor_ids(model: nn.Module | None) -> frozenset[int] | None:
    """The ids of a model's parameters and buffers (None: of any model).

    Of quantized ones the ids of the tensors inside.
    """
    if model is None:
        return None
    tensors = (*model.parameters(), *model.buffers())
    return frozenset(id(plain) for value in tensors for plain in plain_tensors(value))


def dispatchers_of(model: nn.Module | None) -> list[Dispatcher]:
    """The dispatchers of a model's graphs, of all graphs for None."""
    return _dispatchers_of(reports_of(model))


def dispatchers_with(layer: Set[int]) -> list[Dispatcher]:
    """The dispatchers that have been called with just these parameters, by id."""
    return _dispatchers_of([r for r in _all_reports() if layer in r.layers])


def _dispatchers_of(reports: Iterable[GraphReport]) -> list[Dispatcher]:
    references = [report.dispatcher for report in reports]
    alive = [reference() for reference in references if reference is not None]
    return [dispatcher for dispatcher in alive if dispatcher is not None]


def reports_of(model: nn.Module | None) -> list[GraphReport]:
    """The reports of a model's graphs, in the order of compilation; all for None."""
    ids = tensor_ids(model)
    reports = [report for report in _all_reports() if report.belongs_to(ids)]
    return sorted(reports, key=lambda report: report.number)


def explain(model: nn.Module | None = None) -> Explanation:
    """What the backend found in a compiled model and what it left alone.

    Call it after the model's first forward; before it, there is nothing to explain.
    None explains every graph of the process.
    """
    reports = reports_of(model)
    found = explanation_of(reports, tensor_ids(model))
    found = replace(found, maps=maps_of(reports, newest_run(model)))
    if model is None:
        return found
    if not found.graphs and any(p.is_meta for p in model.parameters()):
        reason = (
            "its weights are on the meta device between calls, as offloading leaves "
            "them: no graph is known to be its own, explain() shows those of all models"
        )
        return replace(found, fallbacks=(reason,))
    if gathers_weights(model):
        reason = (
            "its weights are sharded between calls (fully_shard), so its graphs are "
            "not known to be its own: explain() and stats() show those of all models"
        )
        return replace(found, notes=(*found.notes, reason))
    return found


def explanation_of(
    reports: Sequence[GraphReport], ids: Set[int] | None = None
) -> Explanation:
    """What was found in these graphs; ``ids`` are of the model's parameters."""
    regions = tuple(region for report in reports for region in report.regions)
    total = sum(report.flops for report in reports)
    blocks = sum(report.block_flops for report in reports)
    inside = sum(region.flops for region in regions)
    return Explanation(
        graphs=len(reports),
        regions=regions,
        coverage=inside / total if total else 0.0,
        block_coverage=min(1.0, inside / blocks) if blocks else 0.0,
        refused=tuple(item for report in reports for item in report.refused),
        fallbacks=tuple(dict.fromkeys(r for x in reports for r in x.fallbacks)),
        timestep=tuple(r.timestep for r in reports if r.timestep is not None),
        graph_breaks=tuple(
            dict.fromkeys(r.graph_break for r in reports if r.graph_break is not None)
        ),
        notes=tuple(text for report in reports for text in report.notes),
        cache_bytes=_state_bytes(reports, ids),
    )


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


def stats(model: nn.Module | None = None) -> Statistics:
    """The current trajectory of a compiled model, the one before it in ``.last``.

    With several graphs, shapes or owners: the one that ran most recently. With
    ``decide="sample"`` it sums up the samples, each of which is in ``.samples``.
    """
    newest = newest_run(model)
    if newest is None:
        return Statistics()
    scope, dispatcher = newest
    with scope.lock:  # not in the midst of another thread's step
        if scope.samples.joined:
            return _of_samples(scope, dispatcher)
        last = None if scope.last is None else _statistics(scope.last, dispatcher)
        if scope.current is None:
            return Statistics(last=last)
        return replace(_statistics(scope.current, dispatcher), last=last)


def newest_run(model: nn.Module | None) -> tuple[Scope, Dispatcher] | None:
    """The scope that ran most recently, and the dispatcher that led it."""
    ids = tensor_ids(model)
    running = [
        (scope.last_used, position, scope, dispatcher)
        for position, dispatcher in enumerate(dispatchers_of(model))
        for scope in dispatcher.scopes(ids)
    ]
    return max(running, key=lambda entry: entry[:2])[2:] if running else None


def reset(model: nn.Module | None = None) -> None:
    """Drop the cached state of a model (None: of all); compiled graphs stay."""
    for dispatcher in dispatchers_of(model):
        dispatcher.reset(tensor_ids(model))


def log_decision(owner: str, decision: Decision) -> None:
    """One DEBUG line per decision (``TORCH_LOGS="+rfc_compile"``)."""
    log.debug(
        "%s step %d branch %d t=%g: %s (%s, e=%s)",
        owner,
        decision.step,
        decision.branch,
        decision.timestep,
        "full" if decision.full else "cached",
        decision.reason,
        decision.statistic,
    )


class PassObserver:
    """Dumps the graph after every pass and logs how its size changed."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, name: str, gm: fx.GraphModule) -> None:
        """Take note of the graph that the pass ``name`` left."""
        dump_graph(f"rfc_{self._count:02d}_{name}", gm)
        log.debug("after %s: %d nodes", name, len(gm.graph.nodes))
        self._count += 1


def _statistics(trajectory: Trajectory, dispatcher: Dispatcher) -> Statistics:
    trajectory.settle(most=0)
    trajectory = trajectory.whole
    graphs = dispatcher.graphs
    inside = sum(graph.seconds + graph.compile_seconds for graph in graphs.values())
    return Statistics(
        name=trajectory.name,
        nfc=trajectory.nfc,
        steps=len(trajectory.timesteps),
        decisions=tuple(trajectory.decisions),
        estimator=f"{dispatcher.options.estimator} {dispatcher.options.order}",
        cache_bytes=sum(branch.bytes for branch in trajectory.branches),
        graph_seconds={name: graph.seconds for name, graph in graphs.items()},
        host_seconds=dispatcher.seconds - inside,
        sketch_error=_sketch_error(trajectory),
    )


def _of_samples(scope: Scope, dispatcher: Dispatcher) -> Statistics:
    samples = tuple([_statistics(x, dispatcher) for x in scope.samples.trajectories])
    errors = [x.sketch_error for x in samples if x.sketch_error is not None]
    return replace(
        samples[-1],
        nfc=sum(sample.nfc for sample in samples),
        steps=max(sample.steps for sample in samples),
        decisions=tuple(
            replace(decision, branch=number)
            for number, sample in enumerate(samples)
            for decision in sample.decisions
        ),
        cache_bytes=sum(sample.cache_bytes for sample in samples),
        sketch_error=sum(errors) / len(errors) if errors else None,
        samples=samples,
    )


def _sketch_error(trajectory: Trajectory) -> float | None:
    kept = [
        state
        for branch in trajectory.branches
        for state in (branch.state, *branch.followers.values())
    ]
    errors = [error for state in kept for error in state.sketch_errors()]
    return float(torch.cat(errors).mean()) if errors else None
