"""A timestep for every token: 0 for those that are given, as in image to video."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from models import TOKENS, WIDTH, Block, Stack, build
from torch import Tensor
from torch.nn import functional as F

import rfc_compile

STEPS = 24
MANY = 72
"""Tokens: more than timesteps are compared one by one."""


class TimedTokens(Block):
    """The modulation differs from token to token."""

    def modulate(self, c: Tensor) -> tuple[Tensor, ...]:
        return self.modulation(F.silu(c)).chunk(self.parts, dim=-1)


class TimedStack(Stack):
    block = TimedTokens


def drawn(model: Any, tokens: int, given: int) -> Tensor:
    """Euler steps of a flow; the first tokens stay as they are."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, tokens, WIDTH, generator=generator)
    noisy = torch.arange(tokens)[None] >= given
    sigmas = torch.linspace(1, 0, STEPS + 1)
    for now, after in itertools.pairwise(sigmas):
        move = (after - now) * model(x, torch.where(noisy, now, 0.0))
        x = torch.where(noisy[..., None], x + move, x)
    return x


@pytest.mark.parametrize("tokens", [TOKENS, MANY])
def test_given_tokens_cost_no_full_steps(tokens: int) -> None:
    plain = build(TimedStack)
    counts, errors = [], []
    for given in (0, tokens // 3):
        model = torch.compile(plain, backend="rfc", options={"inner": "eager"})
        with torch.no_grad():
            expected = drawn(plain, tokens, given)
            errors.append((drawn(model, tokens, given) - expected).norm())
        counts.append(rfc_compile.stats(model).nfc)
        torch.compiler.reset()
    assert counts[1] <= counts[0] + 1 < STEPS / 2
    assert max(errors) < 0.02 * expected.norm()
