"""Small tensors copied to the host together, without blocking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_HOST = torch.empty(0).cpu().device

MANY_TIMESTEPS = 64
"""Above this number (one per token) only the least and the largest are compared."""

DIGITS = 6
"""Of a timestep: those that differ by rounding are the same. A line through two of them
would go anywhere (KDPM2's stages, whose timesteps are interpolated)."""


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


def read_time(value: Any) -> tuple[float, ...]:
    """The timesteps of a call on the host, one where all are the same."""
    if isinstance(value, Tensor):
        flat = value.reshape(-1)
        if not flat.numel():
            flat = flat.sum()[None]
        if flat.numel() > MANY_TIMESTEPS:
            flat = torch.stack([flat.min(), flat.max()])
        numbers = flat.tolist()
    else:
        numbers = [float(value)]
    values = tuple([float(f"{x:.{DIGITS}g}") for x in numbers])
    return values[:1] if len(set(values)) == 1 else values


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
