"""What a full step keeps of one region, and how a cached step estimates from it.

    observe    inputs, bases, outputs, state   ->  the values to write into the state
    estimate   inputs, bases, state, weights   ->  the outputs

Of an output with a base the difference is kept. The state of a region is its rings: of
every input, of every output, and a statistic per output if the estimator has any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rfc_compile.estimators import Estimator
from rfc_compile.passes.layout import in_strides_of


@dataclass(frozen=True)
class Kept:
    """One region's state, as tensor code that the passes trace.

    Attributes:
        estimator: what predicts the outputs.
        inputs: number of inputs.
        input_of: for each output, the index of its input.
        bases: whether every output has a base.
        lengths: the length of each ring.
        examples: a fake tensor like each output.

    """

    estimator: Estimator
    inputs: int
    input_of: tuple[int, ...]
    bases: bool
    lengths: tuple[int, ...]
    examples: tuple[Tensor, ...]

    @property
    def structure(self) -> object:
        """Tells apart what groups arguments of equal shapes differently."""
        strides = (str(example.stride()) for example in self.examples)
        return (self.inputs, self.input_of, self.bases, self.lengths, *strides)

    def observe(self, *values: Tensor) -> tuple[Tensor, ...]:
        """What is written, ring by ring; a ring of length 0 takes nothing."""
        inputs, bases, outputs, rings = self._split(values, outputs=True)
        if self.bases:
            pairs = zip(outputs, bases, strict=True)
            outputs = [(o.float() - base.float()).to(o.dtype) for o, base in pairs]
        fresh = [*inputs, *outputs]
        now = [[value, *ring] for value, ring in zip(fresh, rings, strict=False)]
        written = [value for value, ring in zip(fresh, rings, strict=False) if ring]
        if self.estimator.statistics:
            written += [
                self.estimator.observe(now[i], now[self.inputs + position])
                for position, i in enumerate(self.input_of)
            ]
        return tuple(written)

    def estimate(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The outputs of a cached step; the step weights come last."""
        *state, weights = values
        current, bases, _, rings = self._split(state, outputs=False)
        outputs, statistics = rings[self.inputs :], rings[self._values :]
        predicted = [
            self.estimator.predict(
                current[i],
                rings[i],
                outputs[position],
                statistics[position][0] if self.estimator.statistics else None,
                weights,
            )
            for position, i in enumerate(self.input_of)
        ]
        if self.bases:
            pairs = zip(predicted, bases, strict=True)
            predicted = [(o.float() + base.float()).to(o.dtype) for o, base in pairs]
        return tuple(map(in_strides_of, predicted, self.examples))

    @property
    def _values(self) -> int:
        return self.inputs + len(self.input_of)

    def _split(
        self, values: Sequence[Tensor], *, outputs: bool
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[list[Tensor]]]:
        """Inputs, bases, outputs (if they are given) and rings."""
        remaining, count = iter(values), len(self.input_of)

        def take(number: int) -> list[Tensor]:
            return [next(remaining) for _ in range(number)]

        return (
            take(self.inputs),
            take(count if self.bases else 0),
            take(count if outputs else 0),
            [take(length) for length in self.lengths],
        )
