"""The graph passes, in order: from Dynamo's graph to the graphs of a step.

    functionalize      torch level graph      -> functional ATen graph
    classify_inputs    analysis               -> timestep, latent, conditioning
    residual_stream    analysis               -> residual adds
    find_regions       analysis               -> regions and refusals
    outline            regions                -> submodules
    make_conditional   region calls           -> conditional(predicate, region, ...)
    hoist_predicate    one predicate a region -> one predicate a step
    specialize         conditionals           -> probe | full | cached

A pass is a plain function ``(gm, ...) -> gm``, an analysis returns frozen records; no
pass knows the name of a model. passes/README.md states the invariants between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from rfc_compile.errors import CannotCache
from rfc_compile.estimators import Estimator
from rfc_compile.passes.conditional import make_conditional
from rfc_compile.passes.functionalize import functionalize
from rfc_compile.passes.graph import Ancestry
from rfc_compile.passes.hoist_predicate import hoist_predicate
from rfc_compile.passes.inputs import ForwardInputs, classify_inputs
from rfc_compile.passes.invariants import check_invariants
from rfc_compile.passes.layout import StateLayout
from rfc_compile.passes.outline import outline
from rfc_compile.passes.regions import Refusal, Region, Regions, find_regions
from rfc_compile.passes.residual_stream import residual_stream
from rfc_compile.passes.specialize import Specialized, specialize

Observer = Callable[[str, fx.GraphModule], None]


@dataclass(frozen=True)
class Captured:
    """A functional forward with what the analyses found in it."""

    gm: fx.GraphModule
    inputs: ForwardInputs
    regions: Regions


def analyse(
    gm: fx.GraphModule,
    fakes: Sequence[Any],
    fake_mode: Any,
    *,
    source_of: Callable[[fx.Node], str],
    is_static: Callable[[fx.Node], bool],
    timestep: str | None,
    observe: Observer,
) -> Captured:
    """Retrace a Dynamo graph and find its regions.

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
    regions = find_regions(gm, adds, ancestry, inputs.static)
    regions = _after_decision(regions, inputs, ancestry)
    return Captured(gm, inputs, regions)


def make_step_graph(
    captured: Captured, estimator: Estimator, fake_mode: Any, observe: Observer
) -> fx.GraphModule:
    """The hoisted conditional graph; ``meta["rfc_state"]`` is its ``StateLayout``."""
    ancestry = Ancestry(captured.gm.graph)
    watched = _watched(captured.regions, captured.inputs, ancestry).name
    latents = [node.name for node in captured.inputs.latents]
    conditioning = [node.name for node in captured.inputs.conditioning]
    passes: list[tuple[str, Callable[[fx.GraphModule], fx.GraphModule]]] = [
        ("outline", lambda gm: outline(gm, captured.regions.found)),
        (
            "conditional",
            lambda gm: make_conditional(
                gm, estimator, watched, latents, conditioning, fake_mode
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


def _watched(regions: Regions, inputs: ForwardInputs, ancestry: Ancestry) -> fx.Node:
    """The input the decision looks at: the first that depends on the latent."""
    latents = ancestry.bits(inputs.latents)
    for region in regions.found:
        for node in region.inputs:
            if ancestry.masks[node] & latents:
                return node
    raise CannotCache("no region depends on the latent input")


def _after_decision(
    regions: Regions, inputs: ForwardInputs, ancestry: Ancestry
) -> Regions:
    """Refuse regions that must run before the decision's input is known."""
    if not regions.found:
        return regions
    watched = _watched(regions, inputs, ancestry)
    early = [
        region
        for region in regions.found
        if any(ancestry.depends(watched, node) for node in region.outputs)
    ]
    refused = tuple(
        Refusal(region.module, "runs before the input of the decision is known")
        for region in early
    )
    return replace(
        regions,
        found=tuple(region for region in regions.found if region not in early),
        refused=regions.refused + refused,
    )


__all__ = [
    "Captured",
    "ForwardInputs",
    "Refusal",
    "Region",
    "Regions",
    "Specialized",
    "StateLayout",
    "analyse",
    "make_step_graph",
    "specialize",
]
