"""The graph after every pass, for tlparse and the log."""

from __future__ import annotations

from torch import fx

from rfc_compile.graph_report import log
from rfc_compile.torch_internals import dump_graph


class PassObserver:
    """Dumps the graph after every pass and logs how its size changed."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, name: str, gm: fx.GraphModule) -> None:
        """Dump the graph after the pass ``name``."""
        dump_graph(f"rfc_{self._count:02d}_{name}", gm)
        log.debug("after %s: %d nodes", name, len(gm.graph.nodes))
        self._count += 1
