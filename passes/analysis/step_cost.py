"""What the graphs of a step compute: FLOPs, operations, and in which modules.

A cached step runs what lies outside of the regions, less what only the regions need;
its graph alone tells how much that is.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass

from torch import fx

from rfc_compile.passes.analysis.flops import flops
from rfc_compile.passes.analysis.records import module_path
from rfc_compile.passes.fx_utils import is_layout


@dataclass(frozen=True)
class StepCost:
    """The cost of one kind of step.

    Attributes:
        operations: calls that compute something: no views, no parts of a tuple.
        modules: FLOPs of every module that has some, by its path.
    """

    flops: int
    operations: int
    modules: Counter[str]


def step_cost(*graphs: fx.GraphModule) -> StepCost:
    """The cost of running these graphs one after the other (analysis only)."""
    nodes = [
        node
        for gm in graphs
        for node in gm.graph.nodes
        if node.op == "call_function"
        and node.target is not operator.getitem
        and not is_layout(node)
    ]
    work = Counter[str]()
    for node in nodes:
        if count := flops(node):
            work[module_path([node])] += count
    return StepCost(work.total(), len(nodes), work)
