"""Models with one peculiarity each outside their blocks, on top of tests/models.py."""

from __future__ import annotations

import torch
from models import WIDTH, Stack
from torch import Tensor, nn


class FromLinear(Stack):
    """A branch starts from a linear's result in another layout, without a norm."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        h = self.blocks[1].attn.out(x).transpose(1, 2).contiguous()[..., 1:]
        h = h + self.branch(h)
        return super().run_blocks(torch.cat([h, h[..., :1]], -1).mT, c, text)

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv1d(WIDTH, WIDTH, 1), nn.GELU(), nn.Conv1d(WIDTH, WIDTH, 1)
        )


class LongSkip(Stack):
    """A skip around all blocks."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        return x + super().run_blocks(x, c, text)


class TimeOnly(Stack):
    """A residual add in the timestep's own MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(WIDTH, WIDTH)

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        return super().run_blocks(x, c + self.extra(c), text)


class Half(Stack):
    """Branches in bfloat16 on a float32 stream; the head reads a second cast."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        for block in self.blocks:
            h = block.norm1(x.float()).bfloat16()
            for layer in (block.mlp[0], block.mlp[2]):
                weight, bias = layer.weight.bfloat16(), layer.bias.bfloat16()
                h = nn.functional.linear(h, weight, bias)
            x = (x.float() + h).bfloat16().float()
        return x


class Images(nn.Module):
    """Patches of an image (B, 2, H, W) through the plain blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(2, WIDTH, 2, stride=2)
        self.stack = Stack()
        self.unpatch = nn.ConvTranspose2d(WIDTH, 2, 2, stride=2)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        grid = self.patch(x)
        h = self.stack(grid.flatten(2).transpose(1, 2), timestep)
        return self.unpatch(h.transpose(1, 2).unflatten(2, grid.shape[2:]))
