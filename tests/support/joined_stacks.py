"""Models whose streams are read, joined or cut between blocks."""

from __future__ import annotations

import torch
from capture import Capture, Walk, same_bits
from models import TOKENS, WIDTH, Stack, timesteps, tokens
from torch import Tensor, nn


class Returned(Stack):
    """The stream after the second of four blocks is returned as well."""

    depth = 4

    def forward(
        self, x: Tensor, t: Tensor, text: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, c = self.embed(x), self.time(t)
        first = [x := block(x, c, x) for block in self.blocks]
        return self.head(self.norm(x)), first[1]


class Skips(Stack):
    """A U: the first block's result joins the stream before the third, by a linear."""

    depth = 3

    def __init__(self) -> None:
        super().__init__()
        self.join = nn.Linear(2 * WIDTH, WIDTH)

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        first, second, third = self.blocks
        x = kept = first(x, c, text)
        x = self.join(torch.cat([second(x, c, text), kept], dim=-1))
        return third(x, c, text)


class Hints(Stack):
    """A hint of the caller's joins the stream between the blocks."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        first, second = self.blocks
        return second(first(x, c, text) + text, c, text)


class Joined(Stack):
    """Two streams at first, then one of both; a slice of it is read in the end."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        first, second = self.blocks
        x, text = first(x, c, text), first(x[:, :3], c, text)
        return second(torch.cat([text, x], dim=1), c, text)[:, 3:]


class Halved(Stack):
    """The last block has half of the tokens."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        first, second = self.blocks
        x = first(x, c, text)
        x = second(x[:, : TOKENS // 2] + x[:, TOKENS // 2 :], c, text)
        return torch.cat([x, x], dim=1)


def check_full_steps(captured: Capture) -> None:
    """Full steps are the model's bit for bit, a cached one is finite."""
    walk = Walk(captured, "whole")
    for step, full in enumerate([True, True, False, True]):
        call = (tokens() + 0.01 * step, timesteps(9 - step), tokens(5))
        found = walk(*call, full=full)
        with torch.no_grad():
            expected = captured.model(*call)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for ours, theirs in zip(found, expected, strict=True):
            assert same_bits(ours, theirs) if full else ours.isfinite().all()
