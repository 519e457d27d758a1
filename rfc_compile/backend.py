"""The torch.compile backend ``rfc``: from Dynamo's graph to a dispatcher.

    Dynamo graph -> analyse -> make_step_graph -> specialize -> inner backend (lazily)
                                                             -> Dispatcher

Anything that cannot be cached goes to the inner backend as it is, with one warning.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from rfc_compile import observe, torch_internals
from rfc_compile.config import Options
from rfc_compile.dispatch import Dispatcher
from rfc_compile.errors import CannotCache
from rfc_compile.inner import LazyGraph, compile_inner
from rfc_compile.observe import GraphReport, PassObserver, RegionInfo
from rfc_compile.passes import (
    Captured,
    StateLayout,
    analyse,
    make_step_graph,
    specialize,
)

log = logging.getLogger(__name__)


def rfc(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compile one Dynamo graph; ``torch.compile(model, backend="rfc")`` calls this.

    Raises:
        OptionError: an unknown option or a value that is not allowed.

    """
    settings = Options.from_mapping(options or {})
    report = observe.new_report(example_inputs)
    try:
        return _cached(gm, example_inputs, settings, mode, report)
    except CannotCache as refusal:
        report.fall_back(f"this forward runs uncached: {refusal.reason}")
    except torch_internals.DynamoControl:
        raise
    except Exception as error:  # our own bug must not cost a user's run
        log.exception("the passes failed")
        report.fall_back(
            f"this forward runs uncached: the passes failed ({type(error).__name__}: "
            f"{error}); please report it"
        )
    compiled = compile_inner(gm, example_inputs, settings, mode)

    def uncached(*arguments: Any) -> Any:
        return compiled(*arguments)

    uncached.report = report  # type: ignore[attr-defined]  # keeps it for explain()
    return uncached


rfc.reset = observe.reset  # type: ignore[attr-defined]  # torch._dynamo.reset() calls it


def _cached(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    options: Options,
    mode: str | None,
    report: GraphReport,
) -> Dispatcher:
    _refuse_gradients(example_inputs)
    fake_mode = torch_internals.dynamo_fake_mode()
    observer = PassObserver()
    captured = analyse(
        gm,
        torch_internals.fake_inputs(gm, example_inputs),
        fake_mode,
        source_of=torch_internals.input_source,
        is_static=torch_internals.is_static_input,
        timestep=options.timestep,
        observe=observer,
    )
    report.flops = captured.regions.flops
    report.refused = captured.regions.refused
    _refuse_little_coverage(captured, options)
    estimator, schedule = options.make_estimator(), options.make_schedule()
    step_graph = make_step_graph(captured, estimator, fake_mode, observer)
    layout: StateLayout = step_graph.meta["rfc_state"]
    specialized = specialize(step_graph, probe=not schedule.static)
    graphs = {}
    for name, subgraph in specialized.graphs.items():
        observer(name, subgraph.gm)
        graphs[name] = LazyGraph(subgraph.gm, fake_mode, options, mode)
    if any(isinstance(value, torch.SymInt) for value in specialized.examples):
        for graph in graphs.values():  # guards on sizes are only kept while Dynamo runs
            graph.compile()
    _report_state(report, captured, layout)
    dispatcher = Dispatcher(
        specialized, graphs, layout, options, report, captured.inputs
    )
    report.dispatcher = weakref.ref(dispatcher)
    return dispatcher


def _refuse_gradients(example_inputs: Sequence[Any]) -> None:
    if torch.is_grad_enabled() and any(
        isinstance(value, torch.Tensor) and value.requires_grad
        for value in example_inputs
    ):
        raise CannotCache(
            "gradients are wanted: call it under torch.no_grad() or "
            "torch.inference_mode() to generate images"
        )


def _refuse_little_coverage(captured: Captured, options: Options) -> None:
    regions = captured.regions
    if not regions.found:
        why = "; ".join(f"{item.candidate}: {item.reason}" for item in regions.refused)
        raise CannotCache("no region found" + (f" ({why})" if why else ""))
    if regions.coverage < options.min_coverage:
        raise CannotCache(
            f"regions hold {regions.coverage:.0%} of the FLOPs, less than "
            f"min_coverage={options.min_coverage:g}"
        )


def _report_state(report: GraphReport, captured: Captured, layout: StateLayout) -> None:
    report.timestep = captured.inputs.names[captured.inputs.timestep_index]
    sizes = {
        ring.name: ring.length * torch_internals.bytes_hint(ring.example)
        for ring in layout.rings
    }
    regions = []
    for region in captured.regions.found:
        own = [name for name in sizes if name.startswith(f"{region.name}.")]
        own += [f"input.{node.name}" for node in region.inputs]
        cache_bytes = sum(sizes.pop(name, 0) for name in own)
        regions.append(
            RegionInfo(
                name=region.name,
                kind=region.kind,
                module=region.module,
                inputs=len(region.inputs),
                outputs=len(region.outputs),
                flops=region.flops,
                cache_bytes=cache_bytes,
            )
        )
    report.regions = tuple(regions)
