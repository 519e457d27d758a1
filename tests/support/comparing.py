"""Runs of a compiled denoiser, every step beside what the eager model gives."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from denoisers import ALL
from denoisers.base import STEPS, Denoiser, flat
from denoisers.flux import flux
from options import MODULES
from torch import Tensor, nn

import rfc_compile

OPTIONS = {
    **MODULES,
    "inner": "eager",
    "min_coverage": 0.0,
    "schedule": "interval",
    "interval": 3,
    "warmup": 3,
}
CADENCE = "FFFCCFCCFCCF"
"""Full and cached steps of a run that nothing disturbs."""

DEEP_FLUX, WAN = ALL["FluxTransformer2DModel"], ALL["WanTransformer3DModel"]
QWEN, DIT = ALL["QwenImageTransformer2DModel"], ALL["DiTTransformer2DModel"]
FLUX = replace(DEEP_FLUX, build=functools.partial(flux, joint=1, single=1), regions=4)
"""One joint block and a single one, which are traced in less time."""

flux_and_wan = pytest.mark.parametrize(
    "denoiser",
    [
        pytest.param(FLUX, id="flux"),
        pytest.param(WAN, id="wan", marks=pytest.mark.nightly),
    ],
)

FORMS = ("whole", "blocks")


def compiled(model: nn.Module, form: str = "whole", **options: Any) -> Any:
    """The model compiled whole, or (in place) block by block."""
    given = {**OPTIONS, **options}
    if form == "whole":
        return torch.compile(model, backend="rfc", options=given)
    model.compile_repeated_blocks(backend="rfc", options=given)  # type: ignore[operator]
    return model


@dataclass(frozen=True)
class Run:
    """A run of a compiled model.

    Attributes:
        kinds: a letter per step: F full, C cached, U uncached.
        errors: relative distance of every step from the eager model's.
        reasons: why each step was full or cached.

    """

    kinds: str
    errors: list[float]
    reasons: list[str]

    def check(self, kinds: str = CADENCE, error: float = 0.2) -> None:
        """These steps are full; all but the cached ones are the eager model's."""
        assert self.kinds == kinds, (self.kinds, self.reasons)
        for kind, found in zip(self.kinds, self.errors, strict=True):
            assert (0 < found < error) if kind == "C" else (found == 0), self


def compare(
    denoiser: Denoiser,
    rfc: Any,
    eager: Callable[..., Any],
    *,
    steps: int = STEPS,
    seed: int = 0,
    before: Callable[[int], object] = lambda step: None,
    of: Any = None,
) -> Run:
    """Run a compiled model; ``before`` is called before every step.

    ``of`` is the model whose statistics tell what was done, ``rfc`` if not given.
    """
    call, kinds, errors, reasons = denoiser.first_call(seed), "", [], []
    for step in range(steps):
        before(step)
        with torch.no_grad():
            result = rfc(**call)
            expected = flat(eager(**call))
        found = flat(result)
        assert found.isfinite().all()
        errors.append(distance(found, expected))
        decisions = rfc_compile.stats(rfc if of is None else of).decisions
        last = decisions[-1] if decisions else None
        kinds += "U" if last is None else "F" if last.full else "C"
        reasons.append("" if last is None else last.reason)
        call = denoiser.advance(call, result, step)
    return Run(kinds, errors, reasons)


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative distance, exactly 0 only for the same bits."""
    if torch.equal(found, expected):
        return 0.0
    return max(float((found - expected).norm() / expected.norm()), 1e-30)


def of_dtype(denoiser: Denoiser, dtype: torch.dtype) -> Denoiser:
    """The denoiser called with inputs of this type, the timestep left as it is."""

    def inputs() -> dict[str, Any]:
        return {
            name: value.to(dtype)
            if isinstance(value, Tensor)
            and value.is_floating_point()
            and name != denoiser.timestep
            else value
            for name, value in denoiser.inputs().items()
        }

    return replace(denoiser, inputs=inputs)


def twin(model: nn.Module) -> nn.Module:
    """An eager copy of a model that is not compiled yet."""
    return copy.deepcopy(model)
