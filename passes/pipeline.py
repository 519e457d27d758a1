"""The graph passes, in order: from Dynamo's graph to the graphs of a step.

    functionalize      torch level graph      -> functional ATen graph (retrace.py)
    classify_inputs    analysis               -> timestep, latent, conditioning
    residual_stream    analysis               -> residual adds
    find_regions       analysis               -> regions and refusals
    merge_regions      analysis               -> one per block, for all, or the model
    outline            regions                -> submodules
    make_conditional   region calls           -> conditional(predicate, region, ...)
    hoist_predicate    one predicate a region -> one predicate a step
    specialize         conditionals           -> probe | full | cached
    small_matmuls      matmuls of a few rows  -> products and sums, but in full
    fold_repeats       identical blocks       -> calls of one submodule, in cached

A pass is a plain function ``(gm, ...) -> gm``, an analysis returns frozen records; no
pass knows the name of a model. passes/README.md states the invariants between them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import fx

from rfc_compile.passes.analysis.flops import block_flops
from rfc_compile.passes.analysis.granularity import merge_regions
from rfc_compile.passes.analysis.input_roles import (
    classify_inputs,
    with_streams,
)
from rfc_compile.passes.analysis.records import Captured
from rfc_compile.passes.analysis.regions import find_regions
from rfc_compile.passes.analysis.residual_stream import residual_stream
from rfc_compile.passes.analysis.step_cost import StepCost, step_cost
from rfc_compile.passes.analysis.watched_value import watched_value, with_watched
from rfc_compile.passes.fx_utils import Ancestry
from rfc_compile.passes.invariants import check_invariants
from rfc_compile.passes.rewrites.conditional import make_conditional
from rfc_compile.passes.rewrites.fold_repeats import fold_repeats
from rfc_compile.passes.rewrites.functionalize import functionalize
from rfc_compile.passes.rewrites.hoist_predicate import hoist_predicate
from rfc_compile.passes.rewrites.outline import outline
from rfc_compile.passes.rewrites.small_matmuls import small_matmuls
from rfc_compile.passes.rewrites.specialize import Specialized, specialize
from rfc_compile.passes.state.kept_values import StateOptions
from rfc_compile.passes.state.state_layout import StateLayout

OPTIONAL_PASSES = ("small_matmuls", "fold_repeats")
"""Passes that may be left out: they need a compiler that fuses."""

Observer = Callable[[str, fx.GraphModule], None]
Pass = Callable[[fx.GraphModule], fx.GraphModule]


@dataclass(frozen=True)
class StepGraphs:
    """What the pipeline makes of a forward."""

    layout: StateLayout
    specialized: Specialized
    full: StepCost
    cached: StepCost


def analyse(
    gm: fx.GraphModule,
    fakes: Sequence[Any],
    fake_mode: Any,
    *,
    source_of: Callable[[fx.Node], str],
    is_static: Callable[[fx.Node], bool],
    timestep: str | None,
    observe: Observer,
    granularity: Callable[[bool], str] = lambda timed: "module",
) -> Captured:
    """Retrace a Dynamo graph and find its regions, merged to the granularity.

    ``granularity`` takes whether the timestep is among the inputs.
    """
    observe("dynamo", gm)
    gm = functionalize(gm, fakes, fake_mode)
    check_invariants(gm)
    observe("functionalize", gm)
    ancestry = Ancestry(gm.graph)
    inputs = classify_inputs(gm, ancestry, source_of, is_static, timestep)
    adds = residual_stream(gm, inputs.sources, ancestry)
    inputs = with_streams(gm, inputs, adds)
    regions = find_regions(gm, adds, ancestry, inputs.static)
    wanted = granularity(inputs.timestep is not None)
    watched = watched_value(regions, inputs, ancestry)
    regions = merge_regions(regions, wanted, watched, ancestry)
    regions = with_watched(regions, inputs, ancestry)
    blocks = block_flops(ancestry, inputs.sources, has_regions=bool(regions.found))
    return Captured(gm, inputs, regions, blocks)


def rewrite(
    captured: Captured,
    state_options: StateOptions,
    fake_mode: Any,
    observe: Observer,
    *,
    probe: bool,
    optional: Collection[str] = OPTIONAL_PASSES,
) -> StepGraphs:
    """The second half: from the regions to the graphs of a step.

    ``probe`` says whether the decision looks at the input, ``optional`` which of
    ``OPTIONAL_PASSES`` run. ``captured.gm`` is used up.
    """
    gm = captured.gm
    for name, apply in _step_passes(captured, state_options, fake_mode):
        gm = apply(gm)
        check_invariants(gm)
        observe(name, gm)
    untimed = captured.inputs.timestep is None
    graphs = specialize(gm, probe=probe, standalone_probe=untimed)
    for name, graph in graphs.graphs.items():
        observe(name, graph.gm)
    before = [] if graphs.probe is None else [graphs.probe.gm]
    full, cached = (step_cost(*before, x.gm) for x in (graphs.full, graphs.cached))
    for name, where, apply in _graph_passes(fake_mode):
        for target, graph in graphs.graphs.items():
            if name in optional and target in where:
                apply(graph.gm)
                check_invariants(graph.gm)
                observe(f"{target}_{name}", graph.gm)
    return StepGraphs(gm.meta["rfc_state"], graphs, full, cached)


def _step_passes(
    captured: Captured, state_options: StateOptions, fake_mode: Any
) -> list[tuple[str, Pass]]:
    """In order: the passes on the one graph of a step."""
    ancestry = Ancestry(captured.gm.graph)
    conditional = partial(
        make_conditional,
        state_options=state_options,
        watched=watched_value(captured.regions, captured.inputs, ancestry).name,
        latents=[node.name for node in captured.inputs.latents],
        conditioning=[
            node.name
            for node in captured.inputs.conditioning
            if not state_options.per_sample
        ],  # with per_sample the host identifies the rows before the probe
        fake_mode=fake_mode,
    )
    return [
        ("outline", partial(outline, regions=captured.regions.found)),
        ("conditional", conditional),
        ("hoist_predicate", hoist_predicate),
    ]


def _graph_passes(fake_mode: Any) -> list[tuple[str, tuple[str, ...], Pass]]:
    """In order: the passes on the specialized graphs, and on which of them."""
    rows = partial(small_matmuls, fake_mode=fake_mode)
    return [
        ("small_matmuls", ("probe", "cached"), rows),
        ("fold_repeats", ("cached",), fold_repeats),
    ]
