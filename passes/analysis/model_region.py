"""The whole forward as one region: its results are predicted.

    latent - embed - [norm - attn ... mlp - add - norm - linear - unpatchify]- result
                     I                                                         O

Kept are the results, of the latent's size, instead of features of the width of a token.
What leads to the first region's input stays outside: the decision may look at it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from rfc_compile.passes.analysis.flops import flops
from rfc_compile.passes.analysis.merged_region import (
    CannotMerge,
    needed_by_outputs_alone,
)
from rfc_compile.passes.analysis.records import Region
from rfc_compile.passes.fx_utils import Ancestry, results_of, tensor_of


def model_region(
    regions: Sequence[Region], watched: fx.Node, ancestry: Ancestry
) -> Region:
    """One region from ``watched``, the input that decides, to the results."""
    inside = ancestry.bits(node for region in regions for node in region.nodes)
    results = results_of(watched.graph)
    outputs = tuple(
        dict.fromkeys(
            node
            for node in results
            if isinstance(node, fx.Node) and ancestry.masks[node] & inside
        )
    )
    for node in outputs:
        if not _predictable(node, watched):
            raise CannotMerge(f"the result {node.name} is no batch of numbers", 0)
    nodes = needed_by_outputs_alone(frozenset(outputs), [watched], [], ancestry)
    return Region(
        name="",
        kind="model",
        module="forward",
        inputs=(watched,),
        outputs=outputs,
        input_of=(0,) * len(outputs),
        nodes=tuple(sorted(nodes, key=ancestry.index.__getitem__)),
        flops=sum(map(flops, nodes)),
        adds=tuple(add for region in regions for add in region.adds),
    )


def _predictable(node: fx.Node, watched: fx.Node) -> bool:
    """Whether a result holds floating point numbers for every sample."""
    value, seen = tensor_of(node), tensor_of(watched)
    if value is None or seen is None or not value.is_floating_point() or not value.ndim:
        return False
    return statically_known_true(value.shape[0] == seen.shape[0])
