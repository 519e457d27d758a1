"""What a full step keeps of one region, and how a cached step estimates from it.

    observe    inputs, bases, outputs, state   ->  the values to write into the state
    estimate   inputs, bases, state, weights   ->  the outputs

Of an output with a base the difference is kept. The state of a region is the rings of
every input's and every output's storage, and one of statistics per output if the
estimator has any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rfc_compile.estimators.base import Estimator
from rfc_compile.passes.state.ring_storage import Storage
from rfc_compile.passes.state.state_layout import in_strides_of


@dataclass(frozen=True)
class RegionState:
    """One region's state, as tensor code that the passes trace.

    Attributes:
        input_of: for each output, the index of its input.
        bases: whether every output has a base.
        examples: a fake tensor like each output.
    """

    estimator: Estimator
    inputs: tuple[Storage, ...]
    outputs: tuple[Storage, ...]
    input_of: tuple[int, ...]
    bases: bool
    examples: tuple[Tensor, ...]

    @property
    def structure(self) -> object:
        """How the arguments are grouped, for the key of a trace."""
        strides = (str(example.stride()) for example in self.examples)
        return (self.inputs, self.outputs, self.input_of, self.bases, *strides)

    @property
    def lengths(self) -> list[int]:
        """The lengths of the rings of every input, output and statistic."""
        statistics = len(self.outputs) if self.estimator.statistics else 0
        return [*(x.length for x in (*self.inputs, *self.outputs)), *[1] * statistics]

    def observe(self, *values: Tensor) -> tuple[Tensor, ...]:
        """What is written, ring by ring."""
        inputs, bases, outputs, rings = self._split(values, outputs=True)
        if self.bases:
            pairs = zip(outputs, bases, strict=True)
            outputs = [(o.float() - base.float()).to(o.dtype) for o, base in pairs]
        storages, fresh = (*self.inputs, *self.outputs), [*inputs, *outputs]
        kept = list(zip(storages, fresh, rings, strict=False))
        written = [storage.store(value) for storage, value, own in kept if own]
        if self.estimator.statistics:
            now = [[value, *storage.load(own)] for storage, value, own in kept]
            written += [
                self.estimator.observe(now[i], now[len(inputs) + position])
                for position, i in enumerate(self.input_of)
            ]
        return tuple(written)

    def estimate(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The outputs of a cached step; the coefficients come last."""
        *state, weights = values
        inputs, bases, _, rings = self._split(state, outputs=False)
        storages = (*self.inputs, *self.outputs)
        pairs = zip(storages, rings, strict=False)
        history = [storage.load(own) for storage, own in pairs]
        statistics = [slot for (slot,) in rings[len(storages) :]]
        predicted = [
            self.estimator.predict(
                inputs[i],
                history[i],
                history[len(inputs) + position],
                statistics[position] if statistics else None,
                weights,
            )
            for position, i in enumerate(self.input_of)
        ]
        if self.bases:
            sums = zip(predicted, bases, strict=True)
            predicted = [o.float() + base.float() for o, base in sums]
        given = zip(predicted, self.examples, strict=True)
        return tuple(in_strides_of(o.to(like.dtype), like) for o, like in given)

    def _split(
        self, values: Sequence[Tensor], *, outputs: bool
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[list[Tensor]]]:
        """Inputs, bases, outputs (if they are given) and the ring of each storage."""
        remaining, count = iter(values), len(self.input_of)

        def take(number: int) -> list[Tensor]:
            return [next(remaining) for _ in range(number)]

        return (
            take(len(self.inputs)),
            take(count if self.bases else 0),
            take(count if outputs else 0),
            [take(length) for length in self.lengths],
        )
