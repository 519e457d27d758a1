"""Blocks and models with two streams: image and text."""

from __future__ import annotations

import torch
from models import TOKENS, WIDTH, Block, CrossAttention, Stack, attend
from torch import Tensor, nn


class JointBlock(Block):
    """Two streams, one attention over both; returns both streams joined."""

    parts = 12
    text_first = False  # which stream's output is projected first

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
        order = (1, 0) if self.text_first else (0, 1)
        branches = {i: sides[i][1].attn.out(parts[i]) for i in order}
        streams = []
        for i, (stream, side, m) in enumerate(sides):
            stream = stream + m[2] * branches[i]
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


class TextFirstBlock(JointBlock):
    """Projects the text's attention before the image's, but adds it after."""

    text_first = True


class TextFirst(Joint):
    """The outputs of a region are not computed in the order of the adds."""

    block = TextFirstBlock


class Refined(Joint):
    """A text refiner, which the latent does not reach, before the joint blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.refiner = Block()

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        return super().run_blocks(x, c, self.refiner(text, c, text))


class BareTextBlock(Block):
    """The text's part of a joint attention has no output projection."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(c)
        h = self.norm1(torch.cat([text, x], dim=1)) * (1 + scale1) + shift1
        both = attend(*self.attn.qkv(h).chunk(3, dim=-1))
        read, seen = both.split([text.shape[1], x.shape[1]], dim=1)
        text = text + gate1 * read
        x = x + gate1 * self.attn.out(seen)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2), text


class BareText(Joint):
    """One output of a region is a slice of what another is computed from."""

    block = BareTextBlock


class ChainedBlock(JointBlock):
    """A cross-attention reads the output of the joint attention."""

    parts = 3

    def build(self) -> None:
        super().build()
        self.cross = CrossAttention()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale, gate = self.modulate(c)
        h = self.norm(torch.cat([x, text], dim=1)) * (1 + scale) + shift
        both = attend(*self.qkv(h).chunk(3, dim=-1))
        seen, read = both.split([x.shape[1], text.shape[1]], dim=1)
        seen = self.out(seen)
        x = x + gate * seen
        x = x + self.cross(seen, text)
        return x, text + gate * self.image.attn.out(read)


class Chained(Joint):
    """One output of a region is computed from another one."""

    block = ChainedBlock


class PackedBlock(Block):
    """Text reads itself, the image reads both; streams are (tokens, channels)."""

    def build(self) -> None:
        super().build()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        shift1, scale1, gate1, shift2, scale2, gate2 = (z[0] for z in self.modulate(c))
        q, k, v = self.qkv(self.norm1(text) * (1 + scale1) + shift1).chunk(3, dim=-1)
        h = self.norm1(x) * (1 + scale1) + shift1
        own_q, own_k, own_v = self.attn.qkv(h).chunk(3, dim=-1)
        keys, values = torch.cat([k, own_k]), torch.cat([v, own_v])
        text = text + gate1 * self.out(attend(q[None], k[None], v[None])[0])
        x = x + gate1 * self.attn.out(attend(own_q[None], keys[None], values[None])[0])
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2), text


class Packed(Joint):
    """Two streams without a batch dimension, slices of one sequence at first."""

    block = PackedBlock

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        sequence = torch.cat([x[0], text[0]])
        x, text = sequence[:TOKENS], sequence[TOKENS:]
        for block in self.blocks:
            x, text = block(x, c, text)
        return torch.cat([x, text])[None, :TOKENS]


class CrossedBlock(Block):
    """Two branches, each of which needs the first result of the other."""

    def build(self) -> None:
        self.shared = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.first = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.second = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        streams = [x, text]
        shared = [
            linear(self.norm(stream))
            for linear, stream in zip(self.shared, streams, strict=True)
        ]
        for i in range(2):
            streams[i] = streams[i] + self.first[i](shared[i].relu())
        means = [stream.mean(1, keepdim=True) for stream in streams]
        for i in range(2):
            streams[i] = streams[i] + self.second[i](shared[i] * means[1 - i])
        return streams[0], streams[1]


class Crossed(Joint):
    """Two candidates that would each run before and after the other."""

    block = CrossedBlock

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        x, text = self.blocks[0](x, c, text)
        return torch.cat([x, text], dim=1)
