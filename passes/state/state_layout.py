"""The state of a conditional graph, as the runtime allocates and passes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from rfc_compile.torch_internals import bytes_hint, size_hint


@dataclass(frozen=True)
class Ring:
    """The last ``length`` values of one input or output, or statistics (length 1).

    Attributes:
        name: ``region_007_attn.output_0``.
        length: full steps kept.
        example: a fake tensor with shape, dtype and device of one slot.
        device: of a slot. Of ``example`` it cannot be read while running: a fake tensor
            is on ``meta`` while another thread compiles with its mode.
    """

    name: str
    length: int
    example: Tensor
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", self.example.device)

    @property
    def bytes(self) -> int:
        """Of all slots, in the call that was traced."""
        return self.length * bytes_hint(self.example)


@dataclass(frozen=True)
class StateLayout:
    """What a conditional graph takes after the model's inputs: rings, weights, limit.

    Every ring is ``length`` graph inputs, newest first. A full step writes its value
    to the oldest slot; the runtime then passes the slots one place on.

    Attributes:
        rings: first one ring of length 1 per latent input, which the runtime fills
            after every call; then those that the graphs fill.
        latents: positions of the latent inputs among the model's inputs.
        weights: a fake tensor like the coefficients.
        conditioning: number of conditioning inputs in the signal.
        device: of the coefficients, as ``Ring.device``.
    """

    rings: tuple[Ring, ...]
    latents: tuple[int, ...]
    weights: Tensor
    conditioning: int
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", self.weights.device)

    @property
    def slots(self) -> int:
        """Number of state tensors."""
        return sum(ring.length for ring in self.rings)

    @property
    def one_place_on(self) -> list[int]:
        """Positions of the slots after a full step: the oldest of a ring is first."""
        starts = accumulate((ring.length for ring in self.rings), initial=0)
        return [
            i
            for start, ring in zip(starts, self.rings, strict=False)
            for i in (start + ring.length - 1, *range(start, start + ring.length - 1))
        ]


def in_strides_of(value: Tensor, example: Tensor) -> Tensor:
    """The value laid out in memory like ``example``, of the same shape.

    What reads a region's output was traced for its strides (``view``).
    """
    wanted = [size_hint(stride) for stride in example.stride()]
    if wanted == [size_hint(stride) for stride in value.stride()]:
        return value
    order = sorted(range(value.ndim), key=lambda dim: -wanted[dim])
    back = [order.index(dim) for dim in range(value.ndim)]
    return value.permute(order).contiguous().permute(back)
