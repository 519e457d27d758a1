"""Models whose streams are read, joined or cut between blocks."""

from __future__ import annotations

import torch
from models import TOKENS, WIDTH, Stack
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
