"""What became of every graph that the backend was given.

A report belongs to a model if the two have a parameter or buffer in common.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import warnings
import weakref
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from rfc_compile import dynamo_frames
from rfc_compile.errors import BudgetWarning, UncachedWarning
from rfc_compile.passes.analysis.records import Refusal
from rfc_compile.passes.analysis.step_cost import StepCost
from rfc_compile.passes.analysis.streams import Streams
from rfc_compile.passes.rewrites.wrapped_parameters import plain_tensors


@dataclass(frozen=True)
class RegionInfo:
    """A region as ``explain`` shows it.

    Attributes:
        name: ``region_007_attn``.
        kind: ``attention``, ``mlp``, ``attention+mlp`` or ``conv``.
        module: path of the module that holds it.
        inputs: number of inputs I.
        outputs: number of outputs O.
        flops: floating point operations of one execution.
        cache_bytes: state kept for it and for no region before it, for one CFG branch,
            in bytes.
    """

    name: str
    kind: str
    module: str
    inputs: int
    outputs: int
    flops: int
    cache_bytes: int


log = logging.getLogger("rfc_compile")


@dataclass(eq=False)
class GraphReport:
    """What became of one graph; lives as long as its compiled form.

    ``kept_as`` names, for every region and output, where its input and it are kept;
    ``state_bytes`` is the state of one CFG branch where the graph leads,
    ``following_bytes`` where it takes over the decisions of another. ``options`` are
    those that ``torch.compile`` was given. ``full_cost`` and ``cached_cost`` are None
    for a graph that is not cached. ``code`` identifies the function that Dynamo
    compiled, ``last_run`` orders the graphs by their newest call (0: none yet).
    ``missing_timestep`` says what to do where no input is known to be the timestep.
    ``called`` is the module whose call compiled it.
    """

    number: int = field(default_factory=itertools.count().__next__)
    regions: tuple[RegionInfo, ...] = ()
    refused: tuple[Refusal, ...] = ()
    uncached_reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    flops: int = 0
    block_flops: int = 0
    full_cost: StepCost | None = None
    cached_cost: StepCost | None = None
    streams: Streams | None = None
    kept_as: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    timestep: str | None = None
    missing_timestep: str | None = None
    graph_break: str | None = None
    fragment: bool = False
    state_bytes: int = 0
    following_bytes: int = 0
    dispatcher: weakref.ref[Any] | None = None
    tensors: dict[int, weakref.ref[Tensor]] = field(default_factory=dict)
    layers: set[frozenset[int]] = field(default_factory=set)
    options: Mapping[str, Any] = field(default_factory=dict)
    code: int | None = None
    parameters: frozenset[int] = frozenset()
    called: weakref.ref[nn.Module] | None = None
    last_run: int = 0

    @property
    def coverage(self) -> float:
        """Share of the graph's FLOPs inside regions, 0 to 1."""
        return coverage_of([self])

    @property
    def uncached(self) -> str:
        """How a reason begins why the graph runs uncached."""
        part = "one graph of the forward" if self.fragment else "this forward"
        return f"{part} runs uncached"

    def fall_back(self, reason: str) -> None:
        """Record why something runs uncached, and warn the first time."""
        if reason not in self.uncached_reasons:
            self.uncached_reasons.append(reason)
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

    def is_called_by(self, ids: Set[int]) -> bool:
        """Whether a module with a tensor of these ids was called when it was made."""
        called = None if self.called is None else self.called()
        return called is not None and not ids.isdisjoint(tensor_ids(called) or ())

    def replaces(self, other: GraphReport) -> bool:
        """Whether both are the same part of a model, compiled for different inputs."""
        same = self.code is not None and self.code == other.code
        return same and not self.parameters.isdisjoint(other.parameters)


def coverage_of(reports: Iterable[GraphReport]) -> float:
    """Share of the FLOPs of these graphs inside regions, 0 to 1."""
    reports = list(reports)
    total = sum(report.flops for report in reports)
    inside = sum(region.flops for report in reports for region in report.regions)
    return inside / total if total else 0.0


def percent_below(share: float) -> str:
    """With one digit, rounded down, so that less than a limit is printed as less."""
    return f"{math.floor(share * 1000) / 10:g}"


run_numbers = itertools.count(1)
"""Of the calls of all graphs."""

_reports: weakref.WeakSet[GraphReport] = weakref.WeakSet()

_lock = threading.Lock()  # other threads may compile while one looks for reports


def new_report(
    inputs: Iterable[Any], options: Mapping[str, Any] | None = None
) -> GraphReport:
    """A registered report of a graph that reads these inputs."""
    values, called = list(inputs), dynamo_frames.called_module()
    report = GraphReport(
        options=dict(options or {}),
        code=dynamo_frames.compiled_function(),
        parameters=frozenset(
            id(plain)
            for value in values
            if isinstance(value, nn.Parameter)
            for plain in plain_tensors(value)
        ),
        called=None if called is None else weakref.ref(called),
    )
    for value in values:
        for plain in plain_tensors(value):
            if isinstance(plain, Tensor):
                report.reads(plain)
    with _lock:
        _reports.add(report)
    return report


def all_reports() -> list[GraphReport]:
    """The reports of all graphs that are alive."""
    with _lock:
        return list(_reports)


def newest_number() -> int:
    """Of the report that was made last; -1 before the first."""
    return max((report.number for report in all_reports()), default=-1)


def model_of(source: Any) -> nn.Module | None:
    """The model that a user names: itself, or the transformers of a pipeline.

    Raises:
        TypeError: it is something else; the message says what to pass.
    """
    if source is None or isinstance(source, nn.Module):
        return source
    components = getattr(source, "components", None)  # of a pipeline of diffusers
    named = components.items() if isinstance(components, Mapping) else ()
    found = [
        part
        for name, part in named
        if str(name).startswith("transformer") and isinstance(part, nn.Module)
    ]
    if not found:
        raise TypeError(
            f"a {type(source).__name__} has no parameters to know its graphs by: pass "
            "the compiled module, as pipe.transformer, or nothing for all graphs"
        )
    return found[0] if len(found) == 1 else nn.ModuleList(found)


def tensor_ids(source: Any) -> frozenset[int] | None:
    """The ids of a model's parameters and buffers (None: of any model).

    Of quantized ones the ids of the tensors inside.
    """
    model = model_of(source)
    if model is None:
        return None
    tensors = (*model.parameters(), *model.buffers())
    return frozenset(id(plain) for value in tensors for plain in plain_tensors(value))


def reports_of(source: Any, ids: frozenset[int] | None = None) -> list[GraphReport]:
    """The reports of a model's graphs, in the order of compilation; all for None.

    Of a model that ``torch.compile`` has wrapped, those with the wrapper's options.
    Where none reads its weights, those that its calls have compiled. Its
    ``tensor_ids`` may be given where they are known.
    """
    ids = tensor_ids(source) if ids is None else ids
    options = dynamo_frames.wrapper_options(source, "rfc")
    alive = [r for r in all_reports() if options in (None, r.options)]
    reports = [report for report in alive if report.belongs_to(ids)]
    if not reports and ids:  # graph breaks may leave graphs that read no weights
        reports = [report for report in alive if report.is_called_by(ids)]
    return sorted(reports, key=lambda report: report.number)


def newest_of_each_part(reports: Iterable[GraphReport]) -> list[GraphReport]:
    """Of the graphs of one part of a model the one that ran last, by compilation."""
    kept: list[GraphReport] = []
    newest_first = sorted(reports, key=lambda r: (r.last_run, r.number), reverse=True)
    for report in newest_first:
        if not any(other.replaces(report) for other in kept):
            kept.append(report)
    return sorted(kept, key=lambda report: report.number)


def uncached_reasons(reports: Iterable[GraphReport]) -> tuple[str, ...]:
    """Why calls of these graphs run uncached, each reason once.

    Those of graphs that ran last come first.
    """
    reports = list(reports)
    newest = newest_of_each_part(reports)
    of_newest = dict.fromkeys(x for r in newest for x in r.uncached_reasons)
    of_others = (x for r in reports for x in r.uncached_reasons if x not in of_newest)
    others = dict.fromkeys(f"for other inputs, {reason}" for reason in of_others)
    return (*of_newest, *others)
