"""The graph passes, in order: from Dynamo's graph to the graphs of a step.

    functionalize      torch level graph      -> functional ATen graph (retrace.py)
    classify_inputs    analysis               -> timestep, latent, conditioning
    residual_stream    analysis               -> residual adds
    find_regions       analysis               -> regions and refusals
    merge_regions      analysis               -> a region per block, or for all blocks
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

from collections.abc import Callable, Sequence
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
from rfc_compile.passes.analysis.watched_value import watched_value, with_watched
from rfc_compile.passes.fx_utils import Ancestry
from rfc_compile.passes.invariants import check_invariants
from rfc_compile.passes.rewrites.conditional import make_conditional
from rfc_compile.passes.rewrites.functionalize import functionalize
from rfc_compile.passes.rewrites.hoist_predicate import hoist_predicate
from rfc_compile.passes.rewrites.outline import outline
from rfc_compile.passes.state.kept_values import StateOptions

Observer = Callable[[str, fx.GraphModule], None]


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

    ``granularity`` is told whether the timestep is among the inputs.

    Raises:
        CannotCache: the forward cannot be cached, with the reason.

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
    regions = merge_regions(regions, wanted, ancestry)
    regions = with_watched(regions, inputs, ancestry)
    blocks = block_flops(ancestry, inputs.sources, has_regions=bool(regions.found))
    return Captured(gm, inputs, regions, blocks)


def make_step_graph(
    captured: Captured, state_options: StateOptions, fake_mode: Any, observe: Observer
) -> fx.GraphModule:
    """The hoisted conditional graph; ``meta["rfc_state"]`` is its ``StateLayout``."""
    ancestry = Ancestry(captured.gm.graph)
    watched = watched_value(captured.regions, captured.inputs, ancestry).name
    latents = [node.name for node in captured.inputs.latents]
    conditioning = [
        node.name
        for node in captured.inputs.conditioning
        if not state_options.per_sample
    ]  # where every sample decides, the host tells samples apart before the probe
    passes: list[tuple[str, Callable[[fx.GraphModule], fx.GraphModule]]] = [
        ("outline", lambda gm: outline(gm, captured.regions.found)),
        (
            "conditional",
            lambda gm: make_conditional(
                gm, state_options, watched, latents, conditioning, fake_mode
            ),
        ),
        ("hoist_predicate", hoist_predicate),
    ]
    gm = captured.gm
    for name, apply in passes:
        gm = apply(gm)
        check_invariants(gm)
        observe(name, gm)
    return gm
