"""Parameters that are wrappers of other tensors, as quantized weights are.

    Dynamo's graph            graph that the passes see
    weight: Int8Tensor        weight_qdata, weight_scale: Tensor
    linear(x, weight)         rebuilt = Int8Tensor(weight_qdata, weight_scale)
                              linear(x, rebuilt)

A wrapper defines what each operation does with its inner tensors
(``__tensor_flatten__``), so retracing leaves ordinary operations on these.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, fx, nn

from rfc_compile.torch_internals import is_static_input, is_wrapper, meta_without_value


def plain_tensors(value: Any) -> list[Any]:
    """The tensors inside a wrapper, in the order of its flattening; else the value."""
    if not is_wrapper(value):
        return [value]
    names, _ = value.__tensor_flatten__()
    inside = [getattr(value, name) for name in names]
    return [
        plain
        for part in inside
        if isinstance(part, Tensor)
        for plain in plain_tensors(part)
    ]


class Rebuild(nn.Module):
    """Makes a wrapper like the example of the tensors inside."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self._example = [example]  # in a list: it is no buffer

    def forward(self, *tensors: Tensor) -> Any:
        """The wrapper."""
        return _rebuilt(self._example[0], iter(tensors))


def _rebuilt(example: Any, tensors: Iterator[Tensor]) -> Any:
    if not is_wrapper(example):  # a plain tensor, or the mesh of a sharded one
        return next(tensors) if isinstance(example, Tensor) else example
    names, context = example.__tensor_flatten__()
    inside = {name: _rebuilt(getattr(example, name), tensors) for name in names}
    return type(example).__tensor_unflatten__(
        inside, context, example.size(), example.stride()
    )


def wrapped_parameters(gm: fx.GraphModule, values: Sequence[Any]) -> frozenset[int]:
    """The positions of the wrapped parameters among a graph's inputs."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    return frozenset(
        i
        for i, (node, value) in enumerate(zip(placeholders, values, strict=True))
        if is_static_input(node) and is_wrapper(value)
    )


def with_plain_parameters(
    gm: fx.GraphModule, fakes: Sequence[Any]
) -> tuple[fx.GraphModule, list[Any]]:
    """Take the tensors inside wrapped parameters for inputs.

    Returns:
        The graph, itself if there are none, and a fake value for each of its inputs.
    """
    wrapped = wrapped_parameters(gm, fakes)
    if not wrapped:
        return gm, list(fakes)
    gm = fx.GraphModule(gm, copy.deepcopy(gm.graph))
    placeholders = gm.graph.find_nodes(op="placeholder")
    first = placeholders[-1].next
    plain: list[Any] = []
    for i, (node, fake) in enumerate(zip(placeholders, fakes, strict=True)):
        plain += plain_tensors(fake) if i in wrapped else [fake]
        if i in wrapped:
            _replace(gm, node, fake, first)
    gm.recompile()
    return gm, plain


def _replace(gm: fx.GraphModule, node: fx.Node, fake: Tensor, first: fx.Node) -> None:
    """Replace one placeholder; the wrapper is rebuilt before the first operation."""
    inputs = []
    for k in range(len(plain_tensors(fake))):
        with gm.graph.inserting_before(node):
            inputs.append(gm.graph.placeholder(f"{node.name}_inside_{k}"))
        inputs[-1].meta.update(meta_without_value(node))
    name = f"rebuild_{node.name}"
    gm.add_submodule(name, Rebuild(fake))
    with gm.graph.inserting_before(first):
        rebuilt = gm.graph.call_module(name, tuple(inputs))
    node.replace_all_uses_with(rebuilt)
    gm.graph.erase_node(node)
    node.meta.clear()  # an erased node outlives its graph until the next collection


def unwrapping(
    graph: Callable[..., Any], wrapped: frozenset[int]
) -> Callable[..., Any]:
    """The graph, called with wrapped parameters at these positions."""
    if not wrapped:
        return graph

    def call(*arguments: Any) -> Any:
        plain: list[Any] = []
        for i, value in enumerate(arguments):
            plain += plain_tensors(value) if i in wrapped else [value]
        return graph(*plain)

    return call
