"""The invariants of passes/README.md, checked between passes."""

from __future__ import annotations

from torch import fx

from rfc_compile.errors import InvariantError
from rfc_compile.passes.fx_utils import aten


def check_invariants(gm: fx.GraphModule) -> None:
    """Raise ``InvariantError``, naming the node, if a pass broke the graph."""
    try:
        gm.graph.lint()
    except RuntimeError as error:
        raise InvariantError(str(error)) from error
    for node in gm.graph.nodes:
        if node.op not in ("output", "get_attr") and "val" not in node.meta:
            raise InvariantError(f"{node} has no meta['val']")
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable:
            continue
        if node.target is not aten.copy_.default or node.args[0].op != "placeholder":
            raise InvariantError(f"{node} writes to {node.args[0]}: not functional")
