"""Tensors that a module keeps as attributes and makes anew from call to call."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import TOKENS, WIDTH, Stack, build, timesteps, tokens
from torch import Tensor

import rfc_compile
from rfc_compile import UncachedWarning

STEPS = 20
OPTIONS = {"inner": "eager"}


class Positioned(Stack):
    """Adds a table of positions that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = table()

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> Tensor:
        return super().forward(x + self.positions, t, text)


def table(scale: float = 1.0) -> Tensor:
    return scale * torch.arange(TOKENS * WIDTH).view(TOKENS, WIDTH).sin()


def drawn(
    model: Any, prepare: Callable[[int], None] | None = None, branches: int = 1
) -> Tensor:
    """Euler steps; ``prepare`` is called before every call, with its number."""
    x, calls = tokens(), itertools.count()
    for step in range(STEPS):
        outputs = []
        for _ in range(branches):
            if prepare is not None:
                prepare(next(calls))
            with torch.no_grad():
                outputs.append(model(x, timesteps(1 - step / STEPS)))
        x = x - sum(outputs) / branches / STEPS
    return x


@pytest.fixture
def model() -> Any:
    torch.compiler.reset()
    return build(Positioned)


def cached(compiled: Any) -> int:
    return sum(not made.full for made in rfc_compile.stats(compiled).decisions)


def test_equal_values_are_the_same_attribute(model: Any) -> None:
    compiled = torch.compile(model, backend="rfc", options=OPTIONS)
    once = drawn(compiled)

    def renew(_: int) -> None:
        model.positions = table()

    assert torch.equal(drawn(compiled, renew), once)
    assert cached(compiled) >= STEPS / 2


def test_the_values_of_two_guidance_branches_in_turn(model: Any) -> None:
    """As with the keys and values of two prompts, kept by the module."""

    def renew(call: int) -> None:
        model.positions = table(1.0 - call % 2)

    expected = drawn(model, renew, branches=2)
    compiled = torch.compile(model, backend="rfc", options=OPTIONS)
    found = drawn(compiled, renew, branches=2)
    assert cached(compiled) >= STEPS / 4
    assert (found - expected).norm() < 0.02 * expected.norm()
    assert torch.equal(found, drawn(compiled, renew, branches=2))


def test_other_values_at_every_step_are_computed(model: Any) -> None:
    def renew(call: int) -> None:
        model.positions = table(1.0 + call)

    expected = drawn(model, renew)
    compiled = torch.compile(model, backend="rfc", options=OPTIONS)
    with pytest.warns(UncachedWarning, match="other tensors at every call"):
        assert torch.equal(drawn(compiled, renew), expected)


def test_values_written_over_are_no_longer_the_same(model: Any) -> None:
    """The first table is kept to compare with; it is changed, and then replaced."""
    compiled = torch.compile(model, backend="rfc", options=OPTIONS)

    def replace(call: int) -> None:
        if call == 10:
            model.positions.mul_(2)
        if call == 11:
            model.positions = table(2.0)

    expected = drawn(model, replace)
    model.positions = table()
    found = drawn(compiled, replace)
    newest = rfc_compile.stats(compiled).decisions
    assert (len(newest), newest[0].full) == (STEPS - 11, True)
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_a_change_of_weights_is_seen_beside_a_renewed_attribute(model: Any) -> None:
    """The sum of all writes is the same before and after."""
    compiled = torch.compile(model, backend="rfc", options=OPTIONS)
    model.positions.mul_(1.0)

    def change(call: int) -> None:
        if call == STEPS // 2:
            model.positions = table()
            model.head.weight.mul_(1.5)

    found = drawn(compiled, change)
    reasons = [made.reason for made in rfc_compile.stats(compiled).decisions]
    assert "weights" in reasons
    plain = build(Positioned)
    expected = drawn(
        plain,
        lambda call: plain.head.weight.mul_(1.5) if call == STEPS // 2 else None,
    )
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_a_reset_frees_what_was_kept(model: Any) -> None:
    compiled = torch.compile(model, backend="rfc", options=OPTIONS)
    drawn(compiled)
    kept = weakref.ref(model.positions)
    model.positions = table()
    drawn(compiled)
    assert kept() is not None, "to compare with"
    rfc_compile.reset(compiled)
    gc.collect()
    assert kept() is None
