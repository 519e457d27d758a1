"""All regions share the step's predicate: compute it once, as early as it is known.

    before                                     after
    signal = self.signal_0(I, ...)             signal = self.signal_0(I, ...)
    predicate = decide(signal[0], 3, limit)    predicate = decide(signal[0], 3, limit)
    signal_1 = self.signal_0(I, ...)           region_000 = conditional(predicate, ...)
    predicate_1 = decide(signal_1[0], ...)     ...
    region_000 = conditional(predicate, ...)
    ...
    region_001 = conditional(predicate_1, ..)  region_001 = conditional(predicate, ...)

Sound because every predicate of a step is computed before its first region runs, from
the same input and state.
"""

from __future__ import annotations

from torch import fx

from rfc_compile.passes.rewrites.conditional import decide


def hoist_predicate(gm: fx.GraphModule) -> fx.GraphModule:
    """Merge equal predicates into the first; unchanged if there is one or none."""
    predicates = gm.graph.find_nodes(op="call_function", target=decide)
    for predicate in predicates[1:]:
        signal = predicate.args[0]
        assert isinstance(signal, fx.Node)
        call = signal.all_input_nodes[0]
        predicate.replace_all_uses_with(predicates[0])
        for node in (predicate, signal, call):
            gm.graph.erase_node(node)
    if len(predicates) > 1:
        gm.recompile()
    return gm
