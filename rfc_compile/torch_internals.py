"""Every private name of torch that rfc_compile uses, in one file.

The rest of the package sees the small functions below. When a torch release moves
something, this is the file to mend.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import fx
from torch._dynamo import lookup_backend as _lookup_backend
from torch._dynamo.convert_frame import compile_lock
from torch._dynamo.exc import InvalidBackend, TorchDynamoException
from torch._guards import TracingContext, tracing
from torch._logging._internal import trace_structured
from torch._subclasses.fake_tensor import FakeTensorMode

try:  # torch >= 2.7
    from torch._dynamo.exc import ShortenTraceback as _ShortenTraceback
except ImportError:
    _ShortenTraceback = None  # type: ignore[assignment,misc]

CompiledGraph = Callable[..., Sequence[Any]]

DynamoControl = TorchDynamoException
"""What Dynamo raises through a backend to steer itself; never to be swallowed."""

if _ShortenTraceback is None:

    class PassedThroughByDynamo(Exception):
        """Base of errors for users; this torch wraps it in BackendCompilerFailed."""

else:

    class PassedThroughByDynamo(_ShortenTraceback):  # type: ignore[no-redef]
        """Base of errors that Dynamo hands to the user as they are."""

        def __init__(self, message: str) -> None:
            super().__init__(message, first_useful_frame=None)


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


@contextlib.contextmanager
def compile_context(mode: FakeTensorMode) -> Iterator[None]:
    """What Dynamo would have set up, for compiling a graph after Dynamo has left."""
    if TracingContext.try_get() is not None:
        yield
        return
    with compile_lock, tracing(TracingContext(mode)), without_autocast():
        yield


def without_autocast() -> contextlib.AbstractContextManager[Any]:
    """No autocasting inside; costs nothing where none is on."""
    if torch._C._is_any_autocast_enabled():
        disabled: contextlib.AbstractContextManager[Any] = torch._C._DisableAutocast()
        return disabled
    return contextlib.nullcontext()


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
    """Inductor with scoped settings; global configuration is left alone."""
    from torch._inductor.compile_fx import compile_fx

    compiled: Any = compile_fx(gm, list(inputs), config_patches=settings or None)
    return cast(CompiledGraph, compiled)


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
