"""Every private name of torch that rfc_compile uses, in one file.

The rest of the package sees the small functions below. When a torch release moves
something, this is the file to mend.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher as _python_kernels
from torch._dynamo import lookup_backend as _lookup_backend
from torch._dynamo.convert_frame import compile_lock
from torch._dynamo.exc import (
    BackendCompilerFailed,
    InvalidBackend,
    TorchDynamoException,
)
from torch._functorch._aot_autograd.functional_utils import has_data_mutation
from torch._guards import TracingContext, tracing
from torch._higher_order_ops.invoke_subgraph import invoke_subgraph as _invoke_subgraph
from torch._logging._internal import trace_structured
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
from torch.fx._lazy_graph_module import _make_graph_module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_map_only

try:  # torch >= 2.7
    from torch._dynamo.exc import ShortenTraceback as _ShortenTraceback
except ImportError:
    _ShortenTraceback = None  # type: ignore[assignment,misc]

CompiledGraph = Callable[..., Sequence[Any]]

invoke_subgraph: Callable[..., Any] = _invoke_subgraph
"""The op that calls a submodule: ``(submodule, its name, *operands)``."""

python_kernels: Callable[[], contextlib.AbstractContextManager[Any]] = _python_kernels
"""Ops traced inside run as they are written in Python, where they are."""

FUSED_LAYER = torch._transformer_encoder_layer_fwd
FUSED_ATTENTION = torch._native_multi_head_attention
masked_softmax: Callable[..., torch.Tensor] = torch._masked_softmax

with contextlib.suppress(RuntimeError):  # a torch that can trace it by itself
    # else tracing runs the op itself, whose kernel takes no symbols for sizes
    torch.library.register_fake(
        "aten::_masked_softmax", lambda scores, *_: torch.empty_like(scores)
    )

DynamoControl = TorchDynamoException
"""What Dynamo raises through a backend to steer itself; never to be swallowed."""


def steers_dynamo(error: Exception) -> bool:
    """Whether it is one of these, and no word of a compiler that has failed."""
    failed = isinstance(error, BackendCompilerFailed)
    return isinstance(error, DynamoControl) and not failed


if _ShortenTraceback is None:

    class PassedThroughByDynamo(Exception):
        """Base of errors for users; this torch wraps it in BackendCompilerFailed."""

else:

    class PassedThroughByDynamo(_ShortenTraceback):  # type: ignore[no-redef]
        """Base of errors that Dynamo hands to the user as they are."""

        def __init__(self, message: str) -> None:
            super().__init__(message, first_useful_frame=None)


def without_mutations(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors as one that writes to its inputs at the end, if at all.

    As AOT autograd does it: ``torch.func.functionalize`` fixes symbolic sizes.
    """

    def from_functional(value: Any) -> torch.Tensor:
        torch._sync(value)  # type: ignore[attr-defined, no-untyped-call]
        return torch._from_functional_tensor(value.elem)

    def functional(*arguments: Any) -> Any:
        with _without_functionalize_key(), FunctionalTensorMode():
            given = [_to_functional(value) for value in arguments]
            results = run(*given)
            results = tree_map_only(FunctionalTensor, from_functional, results)
        for argument, value in zip(arguments, given, strict=True):
            if isinstance(value, FunctionalTensor):
                after = from_functional(value)
                if has_data_mutation(value):
                    argument.copy_(after)
        return results

    return functional


@contextlib.contextmanager
def unlogged_failures() -> Iterator[None]:
    """An op that fails for fake tensors raises, and is not logged as well."""
    log = logging.getLogger(FakeTensorMode.__module__)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _to_functional(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return FunctionalTensor.to_functional(value)
    return value


def _without_functionalize_key() -> contextlib.AbstractContextManager[Any]:
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.Functionalize)
    guard: contextlib.AbstractContextManager[Any] = torch._C._ExcludeDispatchKeyGuard(
        key
    )
    return guard


def _tracing_context() -> TracingContext:
    context = TracingContext.try_get()
    assert context is not None, "only while Dynamo compiles"
    return context


def dynamo_fake_mode() -> FakeTensorMode:
    """The fake mode of the graph that Dynamo is compiling now."""
    mode = _tracing_context().fake_mode
    assert mode is not None
    return mode


def fake_inputs(gm: fx.GraphModule, inputs: Sequence[Any]) -> list[Any]:
    """Dynamo's inputs as fake tensors with Dynamo's own symbolic sizes."""
    contexts: Any = _tracing_context().tensor_to_context
    mode = dynamo_fake_mode()
    fakes: list[Any] = []
    for node, value in zip(gm.graph.find_nodes(op="placeholder"), inputs, strict=True):
        if not isinstance(value, torch.Tensor):
            fakes.append(node.meta["example_value"])
            continue
        symbols = contexts.get(value)
        fakes.append(
            mode.from_tensor(
                value,
                symbolic_context=symbols,
                source=symbols.tensor_source if symbols else None,
                trace=symbols is None,
            )
        )
    return fakes


def is_static_input(node: fx.Node) -> bool:
    """Whether Dynamo marked this graph input as a parameter or buffer."""
    return bool(node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type"))


def input_source(node: fx.Node) -> str:
    """Where the input comes from in the user's program, as ``L['timestep']``."""
    source = node.meta["grapharg"].source
    name = source.name
    return str(name() if callable(name) else name)


def is_wrapper(value: object) -> bool:
    """Whether a value is a tensor made of other tensors (``__tensor_flatten__``)."""
    return is_traceable_wrapper_subclass(value)


def meta_without_value(node: fx.Node) -> dict[str, Any]:
    """The metadata of an input, without a reference to the real tensor.

    A wrapped tensor cannot be swapped, as ``model.to()`` does, while one is left.
    """
    return {
        **node.meta,
        "grapharg": SimpleNamespace(source=node.meta["grapharg"].source),
    }


def is_collective(node: fx.Node) -> bool:
    """Whether the node exchanges values with other ranks, or waits for them."""
    return node.op == "call_function" and _is_collective(node.target)


@functools.cache
def _is_collective(target: object) -> bool:
    return str(target).startswith(
        ("_c10d_functional.", "_c10d_functional_autograd.", "symm_mem.")
    )


def collectives(gm: fx.GraphModule) -> list[tuple[str, Any]]:
    """The collectives of a graph, less the waits, in order; what names their groups."""
    found: list[tuple[str, Any]] = []
    for node in filter(is_collective, gm.graph.nodes):
        target: Any = node.target
        names = [argument.name for argument in target._schema.arguments]
        if "group_name" in names:
            place = names.index("group_name")
            given = node.args[place:] or [node.kwargs["group_name"]]
            found.append((str(target), given[0]))
    return found


def group_of_name(name: str) -> Any:
    """The process group that functional collectives call by this name."""
    from torch.distributed import distributed_c10d

    internals: Any = distributed_c10d
    return internals._resolve_process_group(name)


def in_forward_mode() -> bool:
    """Whether forward-mode AD is on (``dual_level``, ``torch.func.jvp``)."""
    return bool(torch.autograd.forward_ad._current_level >= 0)


def functorch_levels() -> int:
    """How many functorch transforms (vmap, functionalize, ...) are running."""
    return int(torch._C._functorch.get_dynamic_layer_stack_depth())


def leave_functorch_levels(depth: int) -> None:
    """End the transforms that an exception has left running, down to ``depth``."""
    torch._C._functorch.pop_dynamic_layer_stack_and_undo_to_depth(depth)


@contextlib.contextmanager
def compile_context(mode: FakeTensorMode) -> Iterator[None]:
    """What Dynamo would have set up, for compiling a graph after Dynamo has left."""
    if TracingContext.try_get() is not None:
        yield
        return
    with compile_lock, tracing(TracingContext(mode)):
        yield


def without_autocast() -> contextlib.AbstractContextManager[Any]:
    """No autocasting inside; costs nothing where none is on."""
    on = torch._C._is_any_autocast_enabled()
    return torch._C._DisableAutocast() if on else contextlib.nullcontext()


def graph_module(owner: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """A graph with the attributes of ``owner``.

    While Dynamo compiles, its Python code is only written when somebody runs it.
    """
    return _make_graph_module(owner, graph)


def find_backend(name: str) -> Callable[..., CompiledGraph] | None:
    """The Dynamo backend of this name, or None."""
    try:
        return _lookup_backend(name)
    except InvalidBackend:
        return None


def inductor_mode_options(mode: str | None) -> dict[str, Any]:
    """The inductor settings that ``torch.compile(mode=...)`` stands for."""
    from torch._inductor import list_mode_options

    return dict(list_mode_options(mode)) if mode else {}


def compile_with_inductor(
    gm: fx.GraphModule, inputs: Sequence[Any], settings: dict[str, Any]
) -> CompiledGraph:
    """Inductor with scoped settings; global configuration is left alone.

    CUDA graphs copy every input but the weights, which stay where they are.
    """
    from torch._inductor import compile_fx, config

    inner = compile_fx.compile_fx_inner
    if settings.get("triton.cudagraphs", config.triton.cudagraphs):
        placeholders = gm.graph.find_nodes(op="placeholder")
        static = [i for i, node in enumerate(placeholders) if is_static_input(node)]
        inner = functools.partial(_with_static_inputs, inner, static)
    compiled: Any = compile_fx.compile_fx(
        gm, list(inputs), inner_compile=inner, config_patches=settings or None
    )
    return cast(CompiledGraph, compiled)


def _with_static_inputs(
    inner: Callable[..., Any],
    static: Sequence[int],
    gm: fx.GraphModule,
    inputs: Sequence[Any],
    **settings: Any,
) -> Any:
    """Inductor finds them by what Dynamo notes on its own graphs only."""
    return inner(gm, inputs, **{**settings, "static_input_idxs": static})


def compiles_submodules_once(settings: Mapping[str, Any]) -> bool:
    """Whether inductor takes ``invoke_subgraph``, compiling each submodule once."""
    from torch._inductor import config

    knows = hasattr(torch.compiler, "nested_compile_region")  # torch >= 2.8
    return knows and not settings.get("cpp_wrapper", config.cpp_wrapper)


def dump_graph(name: str, gm: fx.GraphModule) -> None:
    """One graph into torch's structured trace (TORCH_TRACE, tlparse)."""
    trace_structured(
        "artifact",
        metadata_fn=lambda: {"name": name, "encoding": "string"},
        payload_fn=lambda: gm.print_readable(
            print_output=False, include_stride=True, include_device=True
        ),
    )


def size_expression(size: torch.SymInt) -> Any:
    """The sympy expression of a symbolic size."""
    return size.node.expr


def size_hint(size: int | torch.SymInt) -> int:
    """A size in the call that was traced, without a guard on it; 1 if unknown."""
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return 1 if hint is None else int(hint)


def bytes_hint(value: torch.Tensor) -> int:
    """Bytes of a tensor in the call that was traced, without a guard on its sizes."""
    return math.prod(map(size_hint, value.shape)) * value.element_size()
