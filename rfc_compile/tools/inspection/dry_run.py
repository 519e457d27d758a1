"""What rfc would do with a model, from one forward that computes next to nothing.

Dynamo traces the forward as always; its graphs are planned and not compiled. In their
place, shapes are propagated: the forward continues with zeros. Only whole numbers and
booleans are computed, for what follows may depend on them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from rfc_compile import dynamo_frames, graph_report, torch_internals
from rfc_compile.compiler.graph_dumps import PassObserver
from rfc_compile.compiler.plan import capture, complete_plan
from rfc_compile.config.options import Options
from rfc_compile.errors import CannotCache, NothingToCache
from rfc_compile.graph_report import GraphReport
from rfc_compile.report import explain
from rfc_compile.report.explain import Explanation
from rfc_compile.report.region_errors import maps_of


@dataclass(frozen=True)
class DryRun:
    """What was found, and a report of every graph in the order of tracing."""

    explanation: Explanation
    reports: tuple[GraphReport, ...]


def dry_run(
    model: nn.Module, inputs: Mapping[str, Any] | Sequence[Any], options: Options
) -> DryRun:
    """Trace and plan one forward of the model, given as keywords or in order.

    Forgets what was compiled before, in the whole process.
    """
    planner = _trace(model, inputs, options)
    if len(planner.reports) > 1:  # a first call may break where it makes tables
        planner = _trace(model, inputs, options)
    ids = graph_report.tensor_ids(model)
    reports = tuple(report for report in planner.reports if report.belongs_to(ids))
    found = explain.explanation_of(reports, ids)
    return DryRun(replace(found, maps=maps_of(reports, None)), reports)


def _trace(
    model: nn.Module, inputs: Mapping[str, Any] | Sequence[Any], options: Options
) -> _Planner:
    torch.compiler.reset()
    planner = _Planner(options)
    compiled: Any = torch.compile(model, backend=planner)
    with torch.no_grad():
        if isinstance(inputs, Mapping):
            compiled(**inputs)
        else:
            compiled(*inputs)
    return planner


@dataclass
class _Planner:
    """A Dynamo backend that plans every graph and compiles none."""

    options: Options
    reports: list[GraphReport] = field(default_factory=list)

    def __call__(
        self, gm: fx.GraphModule, example_inputs: Sequence[Any]
    ) -> Callable[..., Any]:
        report = graph_report.new_report(example_inputs)
        report.graph_break = dynamo_frames.graph_break_reason(gm)
        report.fragment = dynamo_frames.is_fragment(gm)
        self.reports.append(report)
        self._plan(gm, example_inputs, report)
        return _ShapesOnly(gm)

    def _plan(
        self, gm: fx.GraphModule, example_inputs: Sequence[Any], report: GraphReport
    ) -> None:
        observer = PassObserver()
        try:
            fakes = torch_internals.fake_inputs(gm, example_inputs)
            captured = capture(gm, fakes, self.options, report, observer)
            complete_plan(captured, self.options, report, observer)
        except CannotCache as refusal:
            only_noted = isinstance(refusal, NothingToCache) and report.fragment
            texts = report.notes if only_noted else report.uncached_reasons
            texts.append(f"{report.uncached}: {refusal.reason}")


class _ShapesOnly:
    """A graph that returns zeros of the right shapes, but true whole numbers."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self._gm = gm
        self._shapes = _static_results(gm)
        self._numbers: fx.GraphModule | None = None

    def __call__(self, *arguments: Any) -> list[Any]:
        shapes = self._shapes or FakeTensorProp(self._gm).propagate(*arguments)
        wanted = [_is_number(value) for value in shapes]
        if any(wanted) and self._numbers is None:
            self._numbers = _numbers_of(self._gm, wanted)
        numbers = iter(self._numbers(*arguments) if self._numbers else ())
        return [
            next(numbers) if is_number else _blank(value)
            for value, is_number in zip(shapes, wanted, strict=True)
        ]


def _static_results(gm: fx.GraphModule) -> list[Tensor] | None:
    """What the graph returns, as Dynamo traced it, if no size is symbolic."""
    results: Any = gm.graph.output_node().args[0]
    values = [node.meta.get("example_value") for node in results]
    static = all(
        isinstance(value, Tensor)
        and all(isinstance(size, int) for size in (*value.shape, *value.stride()))
        for value in values
    )
    return values if static else None


def _blank(value: Any) -> Any:
    """Zeros in place of a tensor; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).zero_()


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and not (
        value.is_floating_point() or value.is_complex()
    )


def _numbers_of(gm: fx.GraphModule, wanted: Sequence[bool]) -> fx.GraphModule:
    """The part of a graph that computes the wanted results."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(gm.graph, copies)
    results: Any = gm.graph.output_node().args[0]
    graph.output(
        tuple(
            copies[node]
            for node, is_wanted in zip(results, wanted, strict=True)
            if is_wanted
        )
    )
    numbers = fx.GraphModule(gm, graph)
    numbers.graph.eliminate_dead_code(_stays)
    numbers.recompile()
    return numbers


def _stays(node: fx.Node) -> bool:
    """Whether a node without a reader is kept: it writes numbers in place."""
    if node.op in ("placeholder", "output"):
        return True
    writes = node.target is operator.setitem or (
        node.op == "call_method" and str(node.target).endswith("_")
    )
    return writes and _is_number(node.all_input_nodes[0].meta.get("example_value"))
