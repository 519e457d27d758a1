"""Blocks with two streams: image and text."""

from __future__ import annotations

import torch
from models import WIDTH, Block, CrossAttention, Stack, attend
from torch import Tensor, nn


class JointBlock(Block):
    """Two streams, one attention over both; returns both streams joined."""

    parts = 12

    def build(self) -> None:
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.image, self.text = Block(), Block()

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        values = self.modulate(c)
        sides = [(x, self.image, values[:6]), (text, self.text, values[6:])]
        read = [
            side.attn.qkv(self.norm(stream) * (1 + m[1]) + m[0])
            for stream, side, m in sides
        ]
        q, k, v = torch.cat(read, dim=1).chunk(3, dim=-1)
        parts = attend(q, k, v).split([stream.shape[1] for stream, _, _ in sides], 1)
        streams = []
        for (stream, side, m), part in zip(sides, parts, strict=True):
            stream = stream + m[2] * side.attn.out(part)
            h = self.norm(stream) * (1 + m[4]) + m[3]
            streams.append(stream + m[5] * side.mlp(h))
        return streams[0], streams[1]


class TwoWayBlock(Block):
    """The text reads the image, then the image reads the new text."""

    def build(self) -> None:
        super().build()
        self.read, self.write = CrossAttention(), CrossAttention()

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(c)
        text = text + gate1 * self.read(self.norm1(text) * (1 + scale1) + shift1, x)
        x = x + self.write(self.norm2(x) * (1 + scale2) + shift2, text)
        return x + gate2 * self.mlp(self.norm2(x)), text


class Joint(Stack):
    """Joint attention between image and text streams."""

    block = JointBlock

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        for block in self.blocks:
            x, text = block(x, c, text)
        return x


class Refined(Joint):
    """A text refiner, which the latent does not reach, before the joint blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.refiner = Block()

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        return super().run_blocks(x, c, self.refiner(text, c, text))
