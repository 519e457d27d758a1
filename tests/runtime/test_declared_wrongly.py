"""Loops that do not do what was declared, or do it in an odd form: what is told."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from denoising import compiled, run
from models import TOKENS, WIDTH, Stack, build
from torch import Tensor

import rfc_compile
from rfc_compile import BudgetWarning, UncachedWarning

STEPS = 12


class Numbered(Stack):
    """Is given the timestep as a Python number."""

    def forward(self, x: Tensor, t: float, text: Tensor | None = None) -> Tensor:
        return super().forward(x, torch.ones(len(x)) * t, text)


@torch.no_grad()
def walk(model: Any, unit: float = 1, held: int = 0, steps: int = STEPS) -> Tensor:
    """Euler steps; the first ``held`` leave the latent where it is (CFG-Zero*)."""
    x = torch.randn(2, TOKENS, WIDTH, generator=torch.manual_seed(0))
    for step in range(steps):
        output = model(x, (steps - step) * unit)
        x = x - output * (step >= held) / steps
    return x


@pytest.mark.parametrize("unit", [1, 1 / STEPS], ids=["int", "float"])
def test_a_number_that_is_taken_for_a_constant_at_first(unit: float) -> None:
    torch.compiler.reset()
    options = {"inner": "eager"}
    model = torch.compile(build(Numbered), backend="rfc", options=options)
    with pytest.warns(UncachedWarning, match="dynamic=True"):
        walk(model, unit)
    torch.compiler.reset()
    model = torch.compile(build(Numbered), backend="rfc", dynamic=True, options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncachedWarning)
        images = [walk(model, unit) for _ in range(2)]
    assert torch.equal(*images)


class Tabled(Stack):
    """Fills a table of positions at its first call."""

    def __init__(self) -> None:
        super().__init__()
        self.positions: dict[int, Tensor] = {}

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        size = x.shape[1]
        if size not in self.positions:
            self.positions[size] = torch.linspace(0, 1, size)[:, None]
        return super().forward(x + self.positions[size] + text, t)


@pytest.mark.parametrize("calls", [1, 2])
def test_a_first_call_that_fills_a_table_is_told(calls: int) -> None:
    """Dynamo recompiles at the second call: the image drawn later is another one."""

    @torch.no_grad()
    def draw(model: Any) -> Tensor:
        x = torch.randn(2, TOKENS, WIDTH, generator=torch.manual_seed(0))
        for step in range(STEPS):
            t = torch.full((2,), 1000.0 * (1 - step / STEPS))
            texts = [torch.full((2, 1, WIDTH), float(i)) for i in range(calls)]
            x = x - sum(model(x, t, text) for text in texts) / 9
        return x

    model = build(Tabled)
    torch.compiler.reset()
    with pytest.warns(UncachedWarning, match="call the model once before"):
        draw(torch.compile(model, backend="rfc", options={"inner": "eager"}))
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncachedWarning)
        filled = torch.compile(model, backend="rfc", options={"inner": "eager"})
        assert torch.equal(draw(filled), draw(filled))


def test_fewer_steps_than_calls_are_told() -> None:
    model = compiled()
    with (
        pytest.warns(BudgetWarning, match="num_steps=12 is less than the calls"),
        rfc_compile.trajectory("job", num_steps=STEPS),
    ):
        run(model, steps=STEPS + 4)


def test_images_one_after_the_other_are_of_as_many_steps_as_declared() -> None:
    model = compiled()
    with warnings.catch_warnings():
        warnings.simplefilter("error", BudgetWarning)
        with rfc_compile.trajectory("job", num_steps=STEPS):
            for seed in range(3):
                run(model, steps=STEPS, seed=seed)
        with rfc_compile.trajectory("single", num_steps=1):
            for seed in range(3):
                run(model, steps=1, seed=seed)


def test_a_first_step_of_zero_is_no_time_step_guidance() -> None:
    torch.compiler.reset()
    options = {"inner": "eager", "tolerance": 1e-9}
    model = torch.compile(build(Numbered), backend="rfc", dynamic=True, options=options)
    with (
        pytest.warns(UncachedWarning, match="cannot be predicted well enough"),
        rfc_compile.trajectory("job", num_steps=STEPS),
    ):
        walk(model, held=1)
