"""Small tensors copied to the host together, without blocking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_HOST = torch.empty(0).cpu().device


def on_host(value: Any) -> bool:
    """Whether a value can be read without a copy from an accelerator."""
    return not isinstance(value, Tensor) or value.device == _HOST


def copy_to_host(packed: Tensor) -> tuple[Tensor, Any]:
    """Start a copy; returns its destination and the event of its end."""
    host = torch.empty_like(packed, device=_HOST, pin_memory=True)
    host.copy_(packed, non_blocking=True)
    event = torch.Event(packed.device)
    event.record()
    return host, event


def read_all(tensors: Sequence[Tensor]) -> list[list[Any]]:
    """The values of tensors, of one device or on the host, in one copy at most."""
    near = [on_host(tensor) for tensor in tensors]
    far = [tensor for tensor, here in zip(tensors, near, strict=True) if not here]
    arrived = iter(Readback(far).values() if far else ())
    return [
        (tensor if here else next(arrived)).reshape(-1).tolist()
        for tensor, here in zip(tensors, near, strict=True)
    ]


class Readback:
    """One copy of several tensors of one device, packed as bytes."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        flat = [tensor.reshape(-1).contiguous() for tensor in tensors]
        packed = torch.cat([values.view(torch.uint8) for values in flat])
        self._dtypes = [values.dtype for values in flat]
        self._bytes = [values.nbytes for values in flat]
        self._host, self._event = copy_to_host(packed)

    def values(self) -> list[Tensor]:
        """The tensors on the host, flat; waits for the copy."""
        self._event.synchronize()
        parts = torch.split(self._host, self._bytes)
        pairs = zip(parts, self._dtypes, strict=True)
        return [part.clone().view(dtype) for part, dtype in pairs]
