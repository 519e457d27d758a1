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

from rfc_compile.passes.state.token_sketch import can_sketch, sketched, strata_of

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
        sketch: one token in this many is kept.

    """

    length: int
    dtype: torch.dtype | None = None
    changes: torch.dtype | None = None
    sketch: int = 1

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

        shape = list(value.shape)
        if self.sketch > 1:
            shape[1] = strata_of(shape[1], self.sketch)
        examples = [like(shape, self.dtype or value.dtype)]
        if self.changes is not None:
            rows = (*shape[:-1], 1)
            examples.append(like(shape, self.changes))
            examples.append(like(rows, torch.float32))
        return examples[: len(self.rings)]

    def seen(self, value: Tensor) -> Tensor:
        """The part of a value that is kept and looked at."""
        return value if self.sketch == 1 else sketched(value, self.sketch)

    def store(self, value: Tensor, rings: Rings) -> list[Tensor]:
        """What a full step writes of a value seen, one tensor for each ring.

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


def storage_for(
    value: Tensor, length: int, dtype: torch.dtype | None, sketch: int = 1
) -> Storage:
    """The storage of values like this one; the others are what the user asked for."""
    sketch = sketch if length and can_sketch(value, sketch) else 1
    if dtype is None or dtype == value.dtype or not value.is_floating_point():
        return Storage(length, sketch=sketch)
    if dtype.itemsize > 1:
        return Storage(length, dtype, sketch=sketch)
    newest = None if value.element_size() <= 2 else torch.bfloat16
    return Storage(length, newest, dtype, sketch)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    largest = torch.finfo(dtype).max
    return value.float().clamp(-largest, largest).to(dtype)
