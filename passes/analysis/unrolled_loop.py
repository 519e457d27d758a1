"""Whether a graph is a whole sampling loop instead of one call of the denoiser.

    x - blocks(weights) - step - blocks(weights) - step - ...

Then one call draws one image, and the next call is no step after it.
"""

from __future__ import annotations

from torch import fx

from rfc_compile.errors import CannotCache
from rfc_compile.passes.analysis.flops import is_expensive
from rfc_compile.passes.analysis.records import Captured
from rfc_compile.passes.fx_utils import Ancestry, base_of


def refuse_unrolled_loop(captured: Captured) -> None:
    """Refuse a graph whose regions use all their weights again on what these computed.

    Not where an input is known to be the timestep: then a call is a step.
    """
    if captured.inputs.timestep is not None:
        return
    ancestry = Ancestry(captured.gm.graph)
    first_use: dict[fx.Node, fx.Node] = {}
    again: set[fx.Node] = set()
    expensive = (
        node
        for region in captured.regions.found
        for node in region.nodes
        if is_expensive(node)
    )
    for node in expensive:
        read = {base_of(operand) for operand in node.all_input_nodes}
        for weight in read & captured.inputs.static:
            first = first_use.setdefault(weight, node)
            if first is not node and ancestry.depends(node, first):
                again.add(weight)
    if again and len(again) == len(first_use):
        raise CannotCache(
            "all weights are used again on what they computed, and no input is known "
            "to be the timestep, as in a sampling loop compiled as a whole: compile "
            "the denoiser that it calls, or name its timestep by "
            "options={'timestep': ...}"
        )
