"""A model whose weights take no memory: to be traced, not to be run.

Its parameters are tensors of the right shape, type and strides on the default device,
so a compiler sees the model as it is. They all show the same memory, as large as the
largest of them, which nothing writes to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _EmptyOnMeta(TorchFunctionMode):
    """``torch.empty``, from which modules make their parameters, takes no memory."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is torch.empty and named.get("device") is None:
            named["device"] = "meta"
        return func(*args, **named)


def build_without_weights(
    make: Callable[[], nn.Module],
    dtype: torch.dtype,
    in_float32: Collection[str] = (),
) -> nn.Module:
    """The model that ``make`` builds, in evaluation mode, its weights without memory.

    What ``make`` computes (tables of positions) is computed. Submodules or parameters
    named ``in_float32`` stay so.
    """
    with default_dtype(dtype), _EmptyOnMeta():
        model = make().eval()
    one: dict[int, nn.Parameter] = {}
    shared = _SharedMemory(model)
    for path, module in list(model.named_modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            words = {*path.split("."), name}
            kept = torch.float32 if words & {*in_float32} else parameter.dtype
            if id(parameter) not in one:  # a tied weight stays tied
                one[id(parameter)] = shared.like(parameter, kept)
            module.register_parameter(name, one[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                zeros = torch.zeros(buffer.shape, dtype=buffer.dtype)
                module.register_buffer(name, zeros)
    return model


class _SharedMemory:
    """Memory for the largest parameter of a model; every parameter shows it."""

    def __init__(self, model: nn.Module) -> None:
        sizes = (p.numel() * max(p.element_size(), 4) for p in model.parameters())
        self._bytes = torch.empty(max(sizes, default=0), dtype=torch.uint8)

    def like(self, parameter: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
        """A parameter of the same shape."""
        size = math.prod(parameter.shape) * dtype.itemsize
        values: Tensor = self._bytes[:size].view(dtype).view(parameter.shape)
        return nn.Parameter(values, requires_grad=False)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Parameters made inside have this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
