"""Trace a Dynamo graph to functional ATen.

    before (torch level)             after (ATen)
    linear = F.linear(x, w, b)       t = aten.t(w); view = aten.view(x, [12, 4]); ...
    silu = F.silu(linear)            silu = aten.silu(view_1)

Op by op: an op that came before, with the same constants and operands of the same kind,
is copied and not traced again: 97 of 100 in a graph of 57 blocks. A graph with effects,
subgraphs or symbolic sizes is traced as a whole.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from rfc_compile.passes.fx_utils import has_symbols, results_of
from rfc_compile.passes.rewrites.fused_layers import opened
from rfc_compile.torch_internals import (
    graph_module,
    is_wrapper,
    python_kernels,
    unlogged_failures,
    without_mutations,
)

_PURE_MODULES = frozenset(
    {
        *("_operator", "torch", "torch.functional", "torch.nn.functional"),
        *("torch._C._nn", "torch._C._linalg", "torch._C._special", "torch._C._fft"),
    }
)
"""Modules with functions of tensors; none that switch modes."""

_CONSTANTS = (
    *(bool, int, float, complex, str, type(None), type(Ellipsis)),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)

_MANY = 1000
"""Nodes: an op traced alone takes as long as eight in the trace of a whole graph."""


def retrace(gm: fx.GraphModule, fakes: Sequence[Any]) -> fx.GraphModule:
    """The same values as ops of ATen; writes to inputs come last, as ``aten.copy_``.

    Under the fake mode of ``fakes``, the values of its inputs.
    """
    by_op = trace_by_op(gm, fakes) if len(gm.graph.nodes) > _MANY else None
    return by_op or trace_whole(gm, fakes)


def trace_whole(gm: fx.GraphModule, fakes: Sequence[Any]) -> fx.GraphModule:
    """Trace all ops."""
    return _whole(_Opening(gm).run, fakes)


def trace_by_op(gm: fx.GraphModule, fakes: Sequence[Any]) -> fx.GraphModule | None:
    """Trace every kind of op once; None where the graph must be traced as a whole."""
    try:
        return _ByOp(gm).trace(fakes)
    except _Unusual:
        return None


class _Opening(fx.Interpreter):
    """Runs a graph, the fused layers of torch.nn op by op."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call what stands for the function."""
        return super().call_function(opened(target, args), args, kwargs)


def is_write(node: fx.Node) -> bool:
    """Whether the op writes to one of its operands."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _whole(run: Callable[..., Any], fakes: Sequence[Any]) -> fx.GraphModule:
    traced = _traced(run, fakes)
    if not any(map(is_write, traced.graph.nodes)):
        return traced
    # some ops (rms_norm) turn into others below functionalization, in-place ones among
    # them; a second pass sees those
    return _traced(fx.Interpreter(traced).run, fakes)


def _traced(run: Callable[..., Any], fakes: Sequence[Any]) -> fx.GraphModule:
    trace = make_fx(without_mutations(run), tracing_mode="real")
    if not any(map(has_symbols, fakes)):
        return trace(*fakes)
    try:
        with unlogged_failures():
            return trace(*fakes)
    except RuntimeError:
        # a kernel in C++ that takes no symbols for sizes; those in Python are slower
        with python_kernels():
            return trace(*fakes)


class _Unusual(Exception):
    """Not a pure op of tensors and constants that returns tensors, or not alone."""


@dataclass(frozen=True)
class _Template:
    """The trace of one op; ``many`` where it returns a sequence of tensors."""

    graph: fx.Graph
    many: bool


class _ByOp:
    """The trace of one graph."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self.gm = gm
        self.graph = fx.Graph()
        self.templates: dict[Any, _Template] = {}
        self.values: dict[fx.Node, Any] = {}  # what stands for a node of gm

    def trace(self, fakes: Sequence[Any]) -> fx.GraphModule:
        """The whole graph.

        Raises:
            _Unusual: it cannot be traced op by op.
        """
        inputs = enumerate(fakes)
        for node in self.gm.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(*next(inputs))
            elif node.op == "output":
                self.graph.output(fx.map_arg(node.args[0], self.values.__getitem__))
            else:
                self.values[node] = self._op(node)
        return graph_module(self.gm, self.graph)

    def _placeholder(self, number: int, fake: Any) -> fx.Node:
        if not isinstance(fake, torch.Tensor) or is_wrapper(fake):
            raise _Unusual
        placeholder = self.graph.placeholder(f"arg{number}_1")
        placeholder.meta["val"] = fake
        _kind(fake)
        return placeholder

    def _op(self, node: fx.Node) -> Any:
        arguments: Any = fx.map_arg((node.args, node.kwargs), self.values.__getitem__)
        if node.target is operator.getitem and isinstance(arguments[0][0], tuple):
            results, place = arguments[0]
            return results[place]
        if not _seems_pure(node):
            raise _Unusual
        operands: dict[fx.Node, int] = {}
        fx.map_arg(arguments, lambda n: operands.setdefault(n, len(operands)))
        key = (node.op, node.target, _key(arguments, operands))
        if key not in self.templates:
            self.templates[key] = _template(node, arguments, list(operands))
        return self._copy(self.templates[key], node, list(operands))

    def _copy(
        self, template: _Template, node: fx.Node, operands: Sequence[fx.Node]
    ) -> Any:
        """Append a copy of a template to the graph, with the meta of ``node``."""
        meta = {k: value for k, value in node.meta.items() if k != "example_value"}
        copies: dict[fx.Node, fx.Node] = {}
        inputs = iter(operands)
        for old in template.graph.nodes:
            if old.op == "placeholder":
                copies[old] = next(inputs)
            elif old.op != "output":
                copies[old] = self.graph.node_copy(old, copies.__getitem__)
                copies[old].meta.update(meta)
        results = tuple(copies[old] for old in results_of(template.graph))
        return results if template.many else results[0]


def _seems_pure(node: fx.Node) -> bool:
    """Whether it is a function or method of tensors; writes show in its trace."""
    if node.op == "call_method":
        return True
    module = getattr(node.target, "__module__", None)
    return node.op == "call_function" and module in _PURE_MODULES


def _template(node: fx.Node, arguments: Any, operands: Sequence[fx.Node]) -> _Template:
    many = False

    def run(*tensors: torch.Tensor) -> tuple[Any, ...]:
        nonlocal many
        given = dict(zip(operands, tensors, strict=True))
        positional, named = fx.map_arg(arguments, given.__getitem__)
        if node.op == "call_method":
            owner, *positional = positional
            result = getattr(owner, str(node.target))(*positional, **named)
        else:
            result = opened(node.target, positional)(*positional, **named)
        many = isinstance(result, tuple | list)
        return tuple(result) if many else (result,)

    # tracing identifies tensors by id, and nodes share an example
    examples = [operand.meta["val"].detach() for operand in operands]
    try:
        traced = _whole(run, examples)
    except Exception as error:  # .item() needs to know where its tensor comes from
        raise _Unusual from error
    for made in traced.graph.nodes:
        if made.op in ("placeholder", "output"):
            continue
        if made.op != "call_function" or is_write(made):
            raise _Unusual
        fx.node.map_aggregate(made.meta["val"], _check)
    if not all(isinstance(result, fx.Node) for result in results_of(traced.graph)):
        raise _Unusual
    return _Template(traced.graph, many)


def _check(value: Any) -> None:
    """Refuse values that a copied trace cannot reproduce: symbols, odd layouts."""
    if isinstance(value, torch.Tensor):
        _kind(value)
    elif isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        raise _Unusual


def _key(value: Any, operands: dict[fx.Node, int]) -> Any:
    """An argument as what its trace depends on."""
    if isinstance(value, fx.Node):
        return operands[value], *_kind(value.meta["val"])
    if isinstance(value, tuple | list):
        return (type(value), *(_key(item, operands) for item in value))
    if isinstance(value, dict):
        return tuple((name, _key(item, operands)) for name, item in value.items())
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return slice, *(_key(part, operands) for part in parts)
    if isinstance(value, _CONSTANTS):
        # 1, 1.0 and True are equal, 0.0 and -0.0 as well
        return type(value), repr(value)
    raise _Unusual


def _kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What a trace can depend on of a tensor of known sizes."""
    sizes = (*tensor.shape, *tensor.stride(), tensor.storage_offset())
    if tensor.layout != torch.strided or any(
        isinstance(size, torch.SymInt) for size in sizes
    ):
        raise _Unusual
    return (
        tensor.ndim,
        sizes,
        tensor.dtype,
        tensor.device,
        tensor.requires_grad,
        tensor.is_conj(),
        tensor.is_neg(),
    )
