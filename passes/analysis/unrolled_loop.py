"""Whether a graph is a whole sampling loop instead of one call of the denoiser.

    x - blocks(weights) - step - blocks(weights) - step - ...

Then one call draws one image, and the next call is no step after it.
"""

from __future__ import annotations

from torch import fx

from rfc_compile.errors import CannotCache
from rfc_compile.passes.analysis.flops import is_expensive
from rfc_compile.passes.analysis.records import Regions, module_path
from rfc_compile.passes.fx_utils import Ancestry, base_of


def refuse_unrolled_loop(
    regions: Regions, static: frozenset[fx.Node], ancestry: Ancestry
) -> None:
    """Refuse a graph whose regions use their weights again on what these computed.

    Raises:
        CannotCache: it does, and where.
    """
    first_use: dict[fx.Node, fx.Node] = {}
    expensive = (
        node for region in regions.found for node in region.nodes if is_expensive(node)
    )
    for node in expensive:
        for weight in {base_of(operand) for operand in node.all_input_nodes} & static:
            first = first_use.setdefault(weight, node)
            if first is not node and ancestry.depends(node, first):
                raise CannotCache(
                    f"the weights of {module_path([node])} are used again on what they "
                    "computed, and no input is known to be the timestep, as in a "
                    "sampling loop compiled as a whole: compile the denoiser that it "
                    "calls, or name its timestep by options={'timestep': ...}"
                )
