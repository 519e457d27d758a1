"""What the analysis of a graph finds: regions, and what looks like one and is not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from rfc_compile.passes.analysis.input_roles import (
    ForwardInputs,
)
from rfc_compile.passes.analysis.residual_stream import ResidualAdd


@dataclass(frozen=True)
class Region:
    """A cacheable part of the forward.

    Attributes:
        name: ``region_007_attn``, unique in the graph.
        kind: ``attention``, ``mlp``, ``attention+mlp`` or ``conv``; of merged regions
            ``block``, ``stack``, or ``part`` of a block.
        module: path of the module that holds it, as the user's program names it.
        inputs: I, the last cheap values before the first expensive op; a further one
            where the decision watches a value that is no region's input.
        outputs: O, one value per residual add, before the gate, in graph order.
        input_of: for each output, the index of the input on its own stream.
        nodes: what dies when the outputs are supplied, in graph order.
        flops: floating point operations of one execution.
        adds: the residual adds that its outputs lead to, in graph order.
        bases: for each output, the stream before the region: kept is the difference.
            Empty where outputs are kept as they are.
    """

    name: str
    kind: str
    module: str
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    input_of: tuple[int, ...]
    nodes: tuple[fx.Node, ...]
    flops: int
    adds: tuple[ResidualAdd, ...] = ()
    bases: tuple[fx.Node, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """A candidate that is not cacheable, with the reason."""

    candidate: str
    reason: str


@dataclass(frozen=True)
class Regions:
    """What the analysis found in one graph.

    Attributes:
        found: the regions, in the order of their first input.
        flops: floating point operations of the whole forward.
        merge_refusals: why regions were not merged into one.
    """

    found: tuple[Region, ...]
    refused: tuple[Refusal, ...]
    flops: int
    merge_refusals: tuple[str, ...] = ()

    @property
    def coverage(self) -> float:
        """Share of the forward's FLOPs inside regions, 0 to 1."""
        inside = sum(region.flops for region in self.found)
        return inside / self.flops if self.flops else 0.0


def module_path(nodes: Sequence[fx.Node]) -> str:
    """The deepest module that holds all nodes, from ``nn_module_stack``."""
    stacks = [list(node.meta.get("nn_module_stack", {}).values()) for node in nodes]
    common: list[str] = []
    for level in zip(*(stack for stack in stacks if stack), strict=False):
        if len({entry[0] for entry in level}) > 1:
            break
        common.append(level[0][0])
    path = common[-1] if common else ""
    path = re.sub(r"^L\['[^']*'\]|__dict__|_modules|[\[\]'\"]", ".", path)
    return ".".join(part for part in path.split(".") if part) or "forward"


@dataclass(frozen=True)
class Captured:
    """A functional forward with what the analyses found in it.

    ``block_flops`` are the FLOPs of its repeated blocks (``flops.block_flops``).
    """

    gm: fx.GraphModule
    inputs: ForwardInputs
    regions: Regions
    block_flops: int
