"""The tables of errors that masks are made from, measured along the uncached run.

The sampler is given the outputs of the uncached run, whatever the cached model says, so
every step is predicted from true inputs:

    full steps s - g, s, s + g, ...   the cached steps s + 1 .. s + g - 1 are predicted
                                      and compared with the true outputs

for every distance g and every phase. What an error of one step's output does to the
image has two parts. The sampler's own weight of the step is measured by replaying the
run with that output changed, which calls no model; what later steps make of it is not
known. So there is a table for each of a few powers of the weight: drawing images with
the masks of all of them tells which is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from rfc_compile.io.json_files import JSON, Unexpected
from rfc_compile.io.schema import typed
from rfc_compile.tools.measure.reference import draw_with
from rfc_compile.tools.measure.target import Target
from rfc_compile.tools.measure.trial import draw_cached
from rfc_compile.tools.tuning.masks import Costs
from rfc_compile.tools.tuning.space import Setting, mask_setting
from rfc_compile.tools.tuning.trials import SHARE, Trials

_NUDGE: Final = 0.01
"""Relative size of the change that weights are measured with."""


POWERS: Final = (0.0, 0.5, 1.0)
"""Of a step's weight in the sampler, one table each."""


def calibrate(
    trials: Trials, graph: Setting, distances: Sequence[int]
) -> tuple[Costs, ...]:
    """What cached steps cost between two full ones, for these distances.

    Args:
        trials: whose first seed is drawn.
        graph: the options that the graphs are compiled with.
        distances: from one full step to the next, 1 excepted, which costs nothing.

    Returns:
        For each of `POWERS`, by step and distance, the sum of the norms of the cached
        steps' errors, weighted.
    """
    key = {"calibration": dict(graph), "distances": list(distances)}
    known = trials.journal.get(key, partial(_tables, trials.steps))
    if known is not None:
        return known
    target, seed = trials.reference.target, trials.reference.seeds[0]
    outputs = _recorded(target, seed)
    weights = _weights(target, seed, outputs)
    calls = len(outputs) // trials.steps  # one for each CFG branch
    tables = [[{1: 0.0} for _ in range(trials.steps)] for _ in POWERS]
    for distance in distances:
        for phase in range(distance):
            trials.clock.check(SHARE)
            trials.note(f"calibration: distance {distance}, phase {phase}")
            errors = _errors(trials, graph, outputs, distance, phase)
            for power, table in zip(POWERS, tables, strict=True):
                each = [w**power * e for w, e in zip(weights, errors, strict=True)]
                for start in range(phase, trials.steps - distance + 1, distance):
                    part = each[(start + 1) * calls : (start + distance) * calls]
                    table[start][distance] = sum(part)
    trials.journal.add(key, tables)  # type: ignore[arg-type]
    return tuple(tables)


def _tables(steps: int, place: str, value: JSON) -> tuple[Costs, ...]:
    """As they were before JSON made strings of the distances."""
    tables = typed(list[list[dict[str, float]]], place, value)
    if [len(table) for table in tables] != [steps] * len(POWERS):
        raise Unexpected(f"{place} is not {len(POWERS)} tables of {steps} steps")
    try:
        return tuple(
            [{int(distance): cost for distance, cost in row.items()} for row in table]
            for table in tables
        )
    except ValueError as error:
        raise Unexpected(f"{place} has a distance that is no number") from error


def _errors(
    trials: Trials,
    graph: Setting,
    outputs: Sequence[Any],
    distance: int,
    phase: int,
) -> list[float]:
    """The norm of every call's error with full steps at this distance."""
    steps = trials.steps
    full = tuple(range(phase, steps, distance))
    compiled = trials.compiled(graph)
    trials.decide_by({**graph, **mask_setting((0, *full) if phase else full)})
    made: list[float] = []

    def correct(_: nn.Module, __: object, output: Any) -> Any:
        true = outputs[len(made)]
        made.append(float((prediction(output) - prediction(true)).norm()))
        return true

    with compiled.register_forward_hook(correct):
        draw_cached(trials.reference.target, compiled, trials.reference.seeds[0])
    return made


def _recorded(target: Target, seed: int) -> list[Any]:
    """The model's outputs in the uncached run, call by call."""
    outputs: list[Any] = []

    def record(_: nn.Module, __: object, output: Any) -> None:
        outputs.append(_changed(output, 0.0))

    with target.model.register_forward_hook(record):
        draw_with(target, target.model, seed)
    return outputs


def _weights(target: Target, seed: int, outputs: Sequence[Any]) -> list[float]:
    """Change of the image per change of each call's output, both as norms."""
    replay = _Replay(target.model, outputs)
    image = draw_with(target, replay, seed)
    weights = []
    for call, output in enumerate(outputs):
        changed = [*outputs]
        changed[call] = _changed(output, _NUDGE)
        moved = draw_with(target, _Replay(target.model, changed), seed) - image
        size = (prediction(changed[call]) - prediction(output)).norm()
        weights.append(float(moved.norm() / size))
    return weights


class _Replay(nn.Module):
    """Gives recorded outputs in turn; in all else it is the model."""

    def __init__(self, model: nn.Module, outputs: Sequence[Any]) -> None:
        super().__init__()
        self._of = [model]  # in a list: no submodule
        self._outputs = outputs
        self._calls = 0

    def forward(self, *_: Any, **__: Any) -> Any:
        self._calls += 1
        return self._outputs[self._calls - 1]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._of[0], name)


def prediction(output: Any) -> Tensor:
    """The first tensor of what a model returns, whatever holds it."""
    while not isinstance(output, Tensor):
        output = next(iter(_values(output)))
    return output.float()


def _changed(output: Any, by: float) -> Any:
    """A copy whose first tensor is changed by noise of this relative size."""
    if isinstance(output, Tensor):
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(output.shape, generator=generator).to(output)
        size = output.float().norm() / noise.float().norm()
        return output.clone() + by * size.to(output.dtype) * noise
    if isinstance(output, Mapping):
        name, *_ = output
        values = {**output, name: _changed(output[name], by)}
        return type(output)(**values)
    if isinstance(output, tuple | list):
        return type(output)((_changed(output[0], by), *output[1:]))
    values = {**vars(output)}
    name, *_ = values
    copy = object.__new__(type(output))
    vars(copy).update(values | {name: _changed(values[name], by)})
    return copy


def _values(output: Any) -> Any:
    if isinstance(output, Mapping):
        return output.values()
    return output if isinstance(output, tuple | list) else vars(output).values()
