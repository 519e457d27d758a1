"""How the last values of an input or output are kept between full steps.

    whole      v_0   v_1   v_2                 as the model computes them, or cast
    changes    v_0   v_0 - v_1   v_1 - v_2     the changes in float8, a scale per row

A change is small beside the value: in float8 the value's rounding would drown it. The
estimators get the values back in either case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CACHE_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.float8_e4m3fn,
}
"""The values of the option ``cache_dtype``."""

Rings = Sequence[Sequence[Tensor]]
"""The slots of each ring of a storage, newest first."""


@dataclass(frozen=True)
class Storage:
    """The last ``length`` values of one input or output.

    Attributes:
        length: values kept; 0 for none.
        dtype: of the values, None for their own.
        changes: dtype of the changes; None where every value is kept whole.

    """

    length: int
    dtype: torch.dtype | None = None
    changes: torch.dtype | None = None

    @property
    def rings(self) -> dict[str, int]:
        """The length of each ring, by the ending of its name."""
        if self.changes is None:
            lengths = {"": self.length}
        else:
            others = self.length - 1
            lengths = {"": 1, ".changes": others, ".scales": others}
        return {end: length for end, length in lengths.items() if self.length * length}

    def examples(self, value: Tensor) -> list[Tensor]:
        """A slot of each ring for values like this one; call it under its fake mode."""

        def like(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=value.device)

        examples = [like(value.shape, self.dtype or value.dtype)]
        if self.changes is not None:
            rows = (*value.shape[:-1], 1)
            examples.append(like(value.shape, self.changes))
            examples.append(like(rows, torch.float32))
        return examples[: len(self.rings)]

    def store(self, value: Tensor, rings: Rings) -> list[Tensor]:
        """What a full step writes, one tensor for each ring.

        Values that the dtype cannot hold become its largest.
        """
        if not self.length:
            return []
        newest = value if self.dtype is None else _cast(value, self.dtype)
        if len(rings) == 1:
            return [newest]
        assert self.changes is not None
        change = newest.float() - rings[0][0].float()
        largest = torch.finfo(self.changes).max
        scale = change.abs().amax(-1, keepdim=True) / largest
        unit = torch.where(scale > 0, scale, torch.ones_like(scale))
        return [newest, _cast(change / unit, self.changes), scale]

    def load(self, rings: Rings) -> list[Tensor]:
        """The kept values, newest first; float32 unless they are kept as they are."""
        if not self.length:
            return []
        if self.dtype is None and self.changes is None:
            return list(rings[0])
        values = [slot.float() for slot in rings[0]]
        for change, scale in zip(*rings[1:], strict=True):
            values.append(values[-1] - change.float() * scale)
        return values


def storage_for(value: Tensor, length: int, dtype: torch.dtype | None) -> Storage:
    """The storage of values like this one, ``dtype`` being what the user asked for."""
    if dtype is None or dtype == value.dtype or not value.is_floating_point():
        return Storage(length)
    if dtype.itemsize > 1:
        return Storage(length, dtype)
    return Storage(length, None if value.element_size() <= 2 else torch.bfloat16, dtype)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    largest = torch.finfo(dtype).max
    return value.float().clamp(-largest, largest).to(dtype)
