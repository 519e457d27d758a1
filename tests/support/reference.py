"""Eager reference: the estimators as forward hooks on modules, in plain torch.

Written from the formulas alone; shares no code with the package. A module's input is
what its forward gets, its output what its forward returns; at a cached step the hook
replaces the output by the prediction (the module still runs: this is about numbers).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Predict = Callable[[Tensor, list[Tensor], list[Tensor], list[int], int], Tensor]


class HookedReference:
    """Caches the outputs of ``modules``; ``plan[s]`` says whether step s is full."""

    def __init__(
        self, modules: Sequence[nn.Module], predict: Predict, plan: Sequence[bool]
    ) -> None:
        self.predict = predict
        self.plan = plan
        self.step = -1
        self.full_steps: list[int] = []
        self.handles = [self._hook(module) for module in modules]

    def begin_step(self) -> None:
        """Call before every forward of the model."""
        if self.step >= 0 and self.plan[self.step]:
            self.full_steps.insert(0, self.step)
        self.step += 1

    def remove(self) -> None:
        """Take the hooks off again."""
        for handle in self.handles:
            handle.remove()

    def _hook(self, module: nn.Module) -> Any:
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []

        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not self.plan[self.step]:
                return self.predict(
                    args[0], inputs, outputs, self.full_steps, self.step
                )
            inputs.insert(0, args[0])
            outputs.insert(0, output)
            return output

        return module.register_forward_hook(hook)


def reuse(
    now: Tensor, inputs: list[Tensor], outputs: list[Tensor], full: list[int], step: int
) -> Tensor:
    """O_0."""
    return outputs[0]


def derivatives(outputs: list[Tensor], full: list[int], order: int) -> list[Tensor]:
    """First and second derivative at the newest full step, from the true gaps."""
    found: list[Tensor] = []
    if order >= 1 and len(full) >= 2:
        slope = (outputs[0] - outputs[1]) / (full[0] - full[1])
        found.append(slope)
        if order >= 2 and len(full) >= 3:
            before = (outputs[1] - outputs[2]) / (full[1] - full[2])
            found.append((slope - before) * 2 / (full[0] - full[2]))
    return found


def taylor(order: int) -> Predict:
    """O_0 + sum k^i / i! D_i."""

    def predict(
        now: Tensor,
        inputs: list[Tensor],
        outputs: list[Tensor],
        full: list[int],
        step: int,
    ) -> Tensor:
        k = step - full[0]
        result = outputs[0].clone()
        for i, derivative in enumerate(derivatives(outputs, full, order), 1):
            result += k**i / math.factorial(i) * derivative
        return result

    return predict


def rfe(order: int) -> Predict:
    """O_0 + r u, per sample."""

    def predict(
        now: Tensor,
        inputs: list[Tensor],
        outputs: list[Tensor],
        full: list[int],
        step: int,
    ) -> Tensor:
        if len(full) < 2:
            return outputs[0]
        k = step - full[0]
        direction = torch.zeros_like(outputs[0])
        for i, derivative in enumerate(derivatives(outputs, full, order), 1):
            direction += k**i / math.factorial(i) * derivative
        result = outputs[0].clone()
        for b in range(len(result)):
            moved = (inputs[0][b] - inputs[1][b]).norm()
            ratio = (outputs[0][b] - outputs[1][b]).norm() / moved
            length = ratio * (now[b] - inputs[0][b]).norm()
            result[b] += length * direction[b] / direction[b].norm()
        return result

    return predict


def subspace(order: int, ridge: float) -> Predict:
    """O_0 + sum c_j (O_j - O_{j+1}) with the input's ridge regression, per sample."""

    def predict(
        now: Tensor,
        inputs: list[Tensor],
        outputs: list[Tensor],
        full: list[int],
        step: int,
    ) -> Tensor:
        count = min(order, len(full) - 1)
        if count == 0:
            return outputs[0]
        k, gap = step - full[0], full[0] - full[1]
        prior = torch.zeros(count, dtype=torch.float64)
        prior[0] = k / gap
        if order >= 2 and count >= 2:  # Taylor's weights on the last two changes
            curvature = k**2 / (full[0] - full[2])
            prior[0] += curvature / gap
            prior[1] = -curvature / (full[1] - full[2])
        result = outputs[0].clone()
        for b in range(len(result)):
            basis = torch.stack(
                [(inputs[j][b] - inputs[j + 1][b]).flatten() for j in range(count)]
            ).double()
            gram = basis @ basis.T
            pull = ridge * gram.diagonal()
            wanted = basis @ (now[b] - inputs[0][b]).flatten().double() + pull * prior
            c = torch.linalg.solve(gram + torch.diag(pull), wanted)
            for j in range(count):
                result[b] += c[j].float() * (outputs[j][b] - outputs[j + 1][b])
        return result

    return predict
