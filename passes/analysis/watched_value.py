"""The value that the decision of a step looks at.

    text - region - region - scale
                               |
    latent - embed - norm --- mul = I - region        watched: I, or here the norm,
                   (watched)                          because regions run before I

It depends on the latent and is known before any region has run.
"""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from rfc_compile.passes.analysis.input_roles import ForwardInputs
from rfc_compile.passes.analysis.records import Regions
from rfc_compile.passes.fx_utils import Ancestry, tensor_of


def watched_value(
    regions: Regions, inputs: ForwardInputs, ancestry: Ancestry
) -> fx.Node:
    """The first input of a region that depends on the latent and on no region.

    Without one, the last value on the latent's way to the first region that depends
    on it; without such a region, the latent itself.
    """
    latents = ancestry.bits(inputs.latents)
    outputs = ancestry.bits(node for region in regions.found for node in region.outputs)
    reading = [
        node
        for region in regions.found
        for node in region.inputs
        if ancestry.masks[node] & latents
    ]
    for node in reading:
        if not ancestry.masks[node] & outputs:
            return node
    way = ancestry.masks[reading[0]] if reading else 0
    for node in reversed(ancestry.nodes):
        mask = ancestry.masks[node]
        on_the_way = way >> ancestry.index[node] & 1 and mask & latents
        if on_the_way and not mask & outputs and _is_sequence(node):
            return node
    return inputs.latents[0]


def with_watched(
    regions: Regions, inputs: ForwardInputs, ancestry: Ancestry
) -> Regions:
    """Give the first region the watched value as a further input, to be kept."""
    if not regions.found:
        return regions
    watched = watched_value(regions, inputs, ancestry)
    if any(watched in region.inputs for region in regions.found):
        return regions
    first, *others = regions.found
    first = replace(first, inputs=(*first.inputs, watched))
    return replace(regions, found=(first, *others))


def _is_sequence(node: fx.Node) -> bool:
    value = tensor_of(node)
    return value is not None and value.ndim >= 3 and value.is_floating_point()
