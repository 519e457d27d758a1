"""The plan of one graph: what is cached and what it costs, before anything compiles.

Dynamo graph -> capture (analyse) -> complete_plan (rewrite) -> Plan
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from rfc_compile import torch_internals
from rfc_compile.config.options import Options
from rfc_compile.errors import CannotCache, NothingToCache
from rfc_compile.graph_report import GraphReport, RegionInfo, percent_below
from rfc_compile.passes.analysis.batch_dimension import Batch, find_batch
from rfc_compile.passes.analysis.input_roles import name_the_timestep
from rfc_compile.passes.analysis.records import Captured
from rfc_compile.passes.analysis.streams import find_streams
from rfc_compile.passes.analysis.unrolled_loop import refuse_unrolled_loop
from rfc_compile.passes.pipeline import (
    OPTIONAL_PASSES,
    Observer,
    StepGraphs,
    analyse,
    rewrite,
)
from rfc_compile.passes.rewrites.wrapped_parameters import with_plain_parameters
from rfc_compile.passes.state.kept_values import input_ring, own_ring
from rfc_compile.passes.state.state_layout import StateLayout

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A graph whose regions are found.

    Attributes:
        fake_mode: Dynamo's, in which the graph was traced.
        options: those given, with what is chosen by the graph.
        batch: the samples in the inputs, with ``per_sample=True``.
    """

    captured: Captured
    graphs: StepGraphs
    fake_mode: Any
    options: Options
    batch: Batch | None = None

    @property
    def timed(self) -> bool:
        """Whether the timestep is among the graph's inputs."""
        return self.captured.inputs.timestep is not None


def capture(
    gm: fx.GraphModule,
    fakes: Sequence[Any],
    options: Options,
    report: GraphReport,
    observe: Observer,
) -> Captured:
    """Find the regions of a Dynamo graph and write them to its report.

    ``fakes`` are its inputs as fake tensors (``torch_internals.fake_inputs``).
    Only while Dynamo compiles, from inside a backend.
    """
    fake_mode = torch_internals.dynamo_fake_mode()
    captured = analyse(
        *with_plain_parameters(gm, fakes),
        fake_mode,
        source_of=torch_internals.input_source,
        is_static=torch_internals.is_static_input,
        timestep=options.timestep,
        observe=observe,
        granularity=lambda timed: _granularity(options.for_graph(timed=timed)),
    )
    options = _for_graph(options, captured)
    report.flops = captured.regions.flops
    report.block_flops = captured.block_flops
    report.refused = captured.regions.refused
    for reason in captured.regions.merge_refusals:
        report.note(f"granularity={options.granularity!r}: {reason}")
    _refuse_little_coverage(captured, options)
    if not report.fragment:
        refuse_unrolled_loop(captured)
    remedy = name_the_timestep(captured.inputs)
    if remedy and not report.fragment:
        report.missing_timestep = f"no input is known to be the timestep: {remedy}"
    report.streams = find_streams(captured)
    return captured


def complete_plan(
    captured: Captured,
    options: Options,
    report: GraphReport,
    observe: Observer,
    *,
    grouped: bool = False,
) -> Plan:
    """The second half: rewrite the captured graph and size the state.

    ``grouped`` says whether ranks decide together, which they do by the input.
    """
    fake_mode = torch_internals.dynamo_fake_mode()
    options = _for_graph(options, captured)
    state_options = options.make_state_options()
    batch = None
    if state_options.per_sample:
        batch = find_batch(captured.gm, captured.inputs, captured.regions)
    graphs = rewrite(
        captured,
        state_options,
        fake_mode,
        observe,
        probe=not options.make_schedule().static or grouped or options.per_sample,
        optional=_optional_passes(options),
    )
    _report_state(report, captured, graphs.layout)
    report.full_cost, report.cached_cost = graphs.full, graphs.cached
    return Plan(captured, graphs, fake_mode, options, batch)


def _optional_passes(options: Options) -> set[str]:
    if options.inner != "inductor":
        return set()
    chosen = set(OPTIONAL_PASSES)
    if not torch_internals.compiles_submodules_once(options.inner_options):
        chosen.discard("fold_repeats")
    if options.disable_passes:
        log.info("passes left out: %s", ", ".join(options.disable_passes))
    return chosen.difference(options.disable_passes)


def _granularity(options: Options) -> str:
    assert options.granularity is not None, "options choose it"
    return options.granularity


def _for_graph(options: Options, captured: Captured) -> Options:
    return options.for_graph(timed=captured.inputs.timestep is not None)


def _refuse_little_coverage(captured: Captured, options: Options) -> None:
    regions = captured.regions
    if not regions.found and not regions.refused:
        raise NothingToCache("no attention or MLP on a residual stream")
    if not regions.found:
        why = "; ".join(f"{item.candidate}: {item.reason}" for item in regions.refused)
        raise CannotCache(f"no region found ({why})")
    if regions.coverage < options.min_coverage:
        raise CannotCache(
            f"regions hold {percent_below(regions.coverage)} % of the FLOPs, less "
            f"than min_coverage={options.min_coverage:g}"
        )


def _report_state(report: GraphReport, captured: Captured, layout: StateLayout) -> None:
    where = captured.inputs.timestep_index
    report.timestep = None if where is None else captured.inputs.names[where]
    sizes = {ring.name: ring.bytes for ring in layout.rings}
    report.state_bytes = report.following_bytes = sum(sizes.values())
    if where is None:  # only its standalone probe reads the latents
        latents = len(layout.latents)
        report.following_bytes -= sum(list(sizes.values())[:latents])
    regions = []
    for region in captured.regions.found:
        names = {input_ring(node) for node in region.inputs}
        own = [
            name
            for name in sizes
            if name.startswith(f"{region.name}.") or name in names
        ]
        cache_bytes = sum(map(sizes.pop, own))
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
    report.kept_as = {
        region.name: tuple(
            (input_ring(region.inputs[place]), own_ring(region, "output", position))
            for position, place in enumerate(region.input_of)
        )
        for region in captured.regions.found
    }
