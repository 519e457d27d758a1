"""FORA and TaylorSeer by their exact rules, as eager code around the modules.

    TaylorSeer: full iff s < 2 or N - 1 cached steps have passed,
                D_{i+1} = (D_i(new) - D_i(old)) / (last gap),  O = sum k^i / i! D_i
    FORA:       full iff s % N == 0,  O = O(last)

Every order is divided by the same last gap, as in TaylorSeer's own code.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import nn

from rfc_compile.tools.bench.methods.base import (
    Applied,
    Method,
    Mode,
    calling,
    compiled,
)
from rfc_compile.tools.bench.workloads import Step, Workload


@dataclass
class _Run:
    """The schedule and the steps of one run."""

    interval: int
    first_full: int
    order: int
    step: int = -1
    branch: str = "both"
    newest: int | None = None
    gap: int = 1
    full: bool = True

    def begin(self) -> None:
        self.step, self.newest, self.gap = -1, None, 1

    def advance(self, step: int, branch: str = "both") -> None:
        """Decide about the step of this index, for all guidance branches."""
        self.branch = branch
        if step == self.step:
            return
        since = math.inf if self.newest is None else step - self.newest
        self.full = step < self.first_full or since >= self.interval
        if self.full and self.newest is not None:
            self.gap = step - self.newest
        if self.full:
            self.newest = step
        self.step = step


@dataclass
class _CachedModule:
    """Stands in for a module's forward; what it returns as None stays None."""

    forward: Callable[..., Any]
    run: _Run
    derivatives: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.run.full:
            predicted = self._predict()
            return predicted[0] if len(predicted) == 1 else predicted
        output = self.forward(*args, **kwargs)
        known = [output if isinstance(output, tuple) else (output,)]
        for old in self.derivatives.get(self.run.branch, [])[: self.run.order]:
            change = zip(known[-1], old, strict=True)
            known.append(
                tuple(None if a is None else (a - b) / self.run.gap for a, b in change)
            )
        self.derivatives[self.run.branch] = known
        return output

    def _predict(self) -> tuple[Any, ...]:
        assert self.run.newest is not None
        k = self.run.step - self.run.newest
        first, *others = self.derivatives[self.run.branch]
        result = list(first)
        for i, derivative in enumerate(others, start=1):
            weight = k**i / math.factorial(i)
            result = [
                None if a is None else a + weight * d
                for a, d in zip(result, derivative, strict=True)
            ]
        return tuple(result)


def _apply(
    model: nn.Module, workload: Workload, setting: Mapping[str, Any], mode: Mode
) -> Applied:
    run = _Run(setting["interval"], setting["first_full"], setting["order"])
    cached = []
    for block in workload.blocks_of(model):
        for name, module in block.named_children():
            if name in workload.modules:
                cached.append(_CachedModule(module.forward, run))
                module.forward = cached[-1]

    def begin() -> None:
        run.begin()
        for module in cached:
            module.derivatives.clear()

    def advance(step: Step) -> None:
        run.advance(step.index, step.branch)

    return Applied(calling(compiled(model, mode), advance), begin=begin)


METHODS: Final = (
    Method(
        "TaylorSeer, reference",
        _apply,
        [
            {"interval": n, "order": order, "first_full": 2}
            for order, intervals in (
                (2, (3, 4, 5, 6, 7, 9)),
                (1, (3, 4, 5, 7)),
                (3, (3, 4, 5)),
                (4, (6,)),
            )
            for n in intervals
        ],
    ),
    Method(
        "FORA, reference",
        _apply,
        [{"interval": n, "order": 0, "first_full": 1} for n in (3, 4, 5, 6, 7, 8, 2)],
    ),
)
