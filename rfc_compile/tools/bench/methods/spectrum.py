"""Spectrum (arXiv 2603.01623): the blocks' output as a polynomial in the step.

    h(s) = w cheb(s) + (1 - w) line(s),  w = 1/2
    cheb: Chebyshev polynomials to degree 4, fitted to all full steps of the run by
          least squares with ridge 0.1, steps scaled to [-1, 1]
    line: through the last two full steps

The first `warmup` steps are full; then every N-th, N growing by `growth` with every
full step. What is fitted is what the last block returns; the blocks before it do not
run at all.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from rfc_compile.tools.bench.methods.base import (
    Applied,
    Method,
    Mode,
    calling,
    compiled,
)
from rfc_compile.tools.bench.workloads import Step, Workload

DEGREE: Final = 4
RIDGE: Final = 0.1
SHARE: Final = 0.5
"""Of the polynomial; the line has the rest."""


def full_steps(warmup: int, window: float, growth: float, total: int) -> list[int]:
    """The indices of the full steps of a run."""
    full, cached = [], 0
    for step in range(total):
        if step < warmup or cached + 1 >= int(window):
            full.append(step)
            window += growth if step >= warmup else 0.0
            cached = 0
        else:
            cached += 1
    return full


def weights_of(known: list[int], step: int, total: int) -> Tensor:
    """What each full step's output counts for in the forecast of `step`, (K,)."""
    places = torch.tensor([*known, step], dtype=torch.float64) / max(total - 1, 1)
    basis = torch.stack(
        [(k * (2 * places - 1).acos()).cos() for k in range(DEGREE + 1)]
    )
    past, now = basis[:, :-1], basis[:, -1]
    gram = past @ past.T + RIDGE * torch.eye(DEGREE + 1, dtype=torch.float64)
    weights: Tensor = SHARE * (torch.linalg.solve(gram, now) @ past)
    if len(known) == 1:
        weights[-1] += 1 - SHARE
        return weights
    ahead = (step - known[-1]) / (known[-1] - known[-2])
    weights[-1] += (1 - SHARE) * (1 + ahead)
    weights[-2] -= (1 - SHARE) * ahead
    return weights


Output = Tensor | tuple[Tensor | None, ...]


@dataclass
class _Run:
    """The schedule, and where a run stands."""

    setting: Mapping[str, Any]
    step: int = 0
    total: int = 0
    branch: str = ""
    full: tuple[int, ...] = ()

    def advance(self, step: Step) -> None:
        if step.total != self.total:
            self.total = step.total
            self.full = tuple(full_steps(**self.setting, total=step.total))
        self.step, self.branch = step.index, step.branch

    @property
    def is_full(self) -> bool:
        return self.step in self.full


@dataclass
class _Block:
    """Stands in for a block's forward, which does not run in cached steps.

    The last block returns a forecast there, which needs the outputs of all full steps;
    the others return what they returned last, which nothing looks at.
    """

    forward: Any
    run: _Run
    is_last: bool
    steps: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    outputs: dict[str, list[Output]] = field(default_factory=lambda: defaultdict(list))

    def __call__(self, *args: Any, **kwargs: Any) -> Output:
        steps, outputs = self.steps[self.run.branch], self.outputs[self.run.branch]
        if self.run.is_full:
            steps.append(self.run.step)
            outputs.append(self.forward(*args, **kwargs))
            if not self.is_last:
                del steps[:-1], outputs[:-1]
        if self.run.is_full or not self.is_last:
            return outputs[-1]
        weights = weights_of(steps, self.run.step, self.run.total).tolist()
        if isinstance(outputs[0], Tensor):
            total: Tensor = _sum(weights, outputs)
            return total
        return tuple(_sum(weights, kept) for kept in zip(*outputs, strict=True))

    def forget(self) -> None:
        self.steps.clear()
        self.outputs.clear()


def _sum(weights: list[float], outputs: Any) -> Any:
    """Of tensors; None where a block returns None, as the last one of SD3."""
    if outputs[0] is None:
        return None
    return sum(w * x for w, x in zip(weights, outputs, strict=True))


def _apply(
    model: nn.Module, workload: Workload, setting: Mapping[str, Any], mode: Mode
) -> Applied:
    run = _Run(setting)
    modules = workload.blocks_of(model)
    stand_ins = []
    for module in modules:
        stand_ins.append(_Block(module.forward, run, module is modules[-1]))
        module.forward = stand_ins[-1]

    def begin() -> None:
        for block in stand_ins:
            block.forget()

    return Applied(calling(compiled(model, mode), run.advance), begin=begin)


METHODS: Final = (
    Method(
        "Spectrum, reference",
        _apply,
        [
            {"warmup": warmup, "window": window, "growth": growth}
            for warmup in (5, 3)
            for window, growth in (
                *((2, 0.75), (2, 0.25), (3, 0.25), (2, 1.5)),
                *((3, 0.75), (4, 0.5), (4, 1.5)),
            )
        ],
    ),
)
