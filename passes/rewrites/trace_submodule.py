"""Tensor code traced into submodules of a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from rfc_compile.passes.fx_utils import twin


def traced(
    function: Callable[..., Any], examples: Sequence[Tensor], fake_mode: Any
) -> fx.GraphModule:
    """The graph of tensor code for arguments like these fake ones."""
    with fake_mode, torch.no_grad():
        # tracing identifies arguments by id, and slots share an example
        return make_fx(function, tracing_mode="real")(*map(twin, examples))


def kind_of(examples: Sequence[Tensor]) -> tuple[str, ...]:
    """Equal for arguments that give the same graph."""
    return tuple(str((e.shape, e.dtype, e.stride(), e.device)) for e in examples)


class Tracer:
    """Traces tensor code into submodules of ``gm``, once per kind of arguments."""

    def __init__(self, gm: fx.GraphModule, fake_mode: Any) -> None:
        self.gm = gm
        self.fake_mode = fake_mode
        self.known: dict[object, str] = {}

    def trace(
        self,
        name: str,
        function: Callable[..., Any],
        nodes: Sequence[fx.Node],
        structure: object = None,
    ) -> fx.Node:
        """A ``get_attr`` node of the traced function, at the graph's insert point.

        ``structure`` is part of the key: functions of one name may group equal nodes
        differently.
        """
        examples = [node.meta["val"] for node in nodes]
        kind = (name, structure, *kind_of(examples))
        if kind not in self.known:
            module = traced(function, examples, self.fake_mode)
            self.known[kind] = f"{name}_{len(self.known)}"
            self.gm.add_submodule(self.known[kind], module)
        return self.gm.graph.get_attr(self.known[kind])
