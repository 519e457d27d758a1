"""Small models in the forms of original repositories, on top of tests/models.py.

Mapping networks, shifted windows, opaque attention, guidance inside of the forward (its
answers mixed or not), layers of torch.nn with gated skips.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from models import HEADS, TOKENS, WIDTH, Attention, Block, Stack, attend
from torch import Tensor, nn
from torch.nn import functional as F


class Mapped(Stack):
    """A mapping network: residual MLPs on the conditioning, which reads new zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.augment = nn.Linear(3, WIDTH)
        self.ups = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        c = c + self.augment(x.new_zeros(len(x), 3))
        for up, down in zip(self.ups, self.downs, strict=True):
            h, gate = up(c).chunk(2, dim=-1)
            c = down(h * F.gelu(gate)) + c
        return super().run_blocks(x, c, text)


class Pooled(Stack):
    """A residual MLP on the pooled tokens, which are a part of the conditioning."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)
        )

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        pooled = x.mean(1)
        pooled = pooled + self.pool(pooled)
        return super().run_blocks(x, c + pooled, text)


class WindowAttention(Attention):
    """Windows of tokens, cut and stacked: they are rows of the first linear."""

    def forward(self, x: Tensor) -> Tensor:
        windows = torch.stack(x.roll(1, 1).chunk(2, dim=1))  # (2, B, T / 2, C)
        read = attend(*self.qkv(windows.flatten(0, 1)).chunk(3, dim=-1))
        halves = self.out(read).unflatten(0, (2, -1)).unbind(0)
        return torch.cat(halves, dim=1).roll(-1, 1)


class WindowBlock(Block):
    """Attention within shifted windows."""

    def build(self) -> None:
        super().build()
        self.attn = WindowAttention()


@torch.library.custom_op("rfc_tests::attend", mutates_args=())
def opaque_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention that no pass can look into, as a kernel of its own."""
    return attend(q, k, v).clone()


@opaque_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.empty_like(q)


class OpaqueAttention(Attention):
    """Queries, keys and values through somebody's own op."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(opaque_attention(*self.qkv(x).chunk(3, dim=-1)))


class OpaqueBlock(Block):
    """Attention as one opaque op."""

    def build(self) -> None:
        super().build()
        self.attn = OpaqueAttention()


class Guided(Stack):
    """Guidance inside of the forward: the same blocks twice in one graph."""

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> Tensor:
        with_time = super().forward(x, t)
        without = super().forward(x, t * 0 + 1)
        return without + 2.5 * (with_time - without)


class TokenBlock(Block):
    """A gate and a scale for every token."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        scale, gate = self.by_token(c).chunk(2, dim=-1)
        return x + gate * self.attn(x * (1 + scale))

    def build(self) -> None:
        super().build()
        self.by_token = nn.Linear(WIDTH, 2 * WIDTH)


class Decoupled(Stack):
    """A second stack whose tokens the first one's modulate, and the head's as well."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.ModuleList(TokenBlock() for _ in range(2))
        self.last = nn.Linear(WIDTH, WIDTH)

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        tokens = F.silu(super().run_blocks(x, c, text) + c[:, None])
        for block in self.decoder:
            x = block(x, tokens, text)
        return x * (1 + self.last(tokens))


class Doubled(Stack):
    """Guidance in one batch made inside of the forward; the caller mixes answers."""

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> Tensor:
        return super().forward(torch.cat([x, x]), torch.cat([t, t * 0 + 1]))


class TwoAnswers(Doubled):
    """The same with the answers as a tuple."""

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> Any:
        return super().forward(x, t, text).chunk(2)


class EncoderLayers(nn.Module):
    """Layers of torch.nn, each of which PyTorch's fast path runs as one op."""

    def __init__(self, *, norm_first: bool = False, activation: str = "gelu") -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH,
                2,
                32,
                batch_first=True,
                norm_first=norm_first,
                activation=activation,
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x = x + timestep.sin()[:, None, None]
        for layer in self.layers:
            x = layer(x)
        return x


class GatedLayer(nn.Module):
    """Layer of torch.nn on parts of a sample as rows, gate, residual, skip."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(WIDTH, WIDTH)
        self.mix = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)
        self.gate, self.out = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        y = x + self.time(c)[:, None]
        parts = y.unflatten(1, (2, -1)).flatten(0, 1)  # (2 B, T / 2, C)
        y = self.mix(parts).unflatten(0, (len(x), 2)).flatten(1, 2)
        gate, value = self.gate(y).chunk(2, dim=-1)
        residual, skip = self.out(gate.sigmoid() * value.tanh()).chunk(2, dim=-1)
        return (x + residual) / math.sqrt(2), skip


class GatedSkips(nn.Module):
    """A time series: a table of steps, gated layers, a head on their skips' sum."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(
            "table", torch.arange(1000.0)[:, None] * 0.9 ** (torch.arange(WIDTH) / 2)
        )
        self.embed, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(GatedLayer() for _ in range(3))

    def forward(self, x: Tensor, diffusion_step: Tensor) -> Tensor:
        c = self.table[diffusion_step.long()].sin()
        x, skips = self.embed(x), []
        for layer in self.layers:
            x, skip = layer(x, c)
            skips.append(skip)
        total = torch.stack(skips).sum(0) / math.sqrt(len(skips))
        return self.head(total.relu())


assert TOKENS % 2 == 0, "windows and parts are halves"


class PairBiased(Stack):
    """The scores of every layer get an entry of one bias, made of pairs of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Linear(WIDTH, self.depth * HEADS)

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> Tensor:
        pairs = self.pair(x)[:, :, None] * self.pair(x)[:, None]
        return super().forward(x, t, pairs)

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        bias = text.unflatten(-1, (self.depth, HEADS))
        for i, block in enumerate(self.blocks):
            shift1, scale1, gate1, shift2, scale2, gate2 = block.modulate(c)
            h = block.norm1(x) * (1 + scale1) + shift1
            x = x + gate1 * self.attend(block.attn, h, bias[:, :, :, i])
            x = x + gate2 * block.mlp(block.norm2(x) * (1 + scale2) + shift2)
        return x

    def attend(self, attention: Attention, x: Tensor, bias: Tensor) -> Tensor:
        """Attention with a bias (B, T, T, HEADS) on its scores."""
        parts = attention.qkv(x).chunk(3, dim=-1)
        q, k, v = (z.unflatten(-1, (HEADS, -1)).transpose(1, 2) for z in parts)
        scores = q @ k.transpose(-1, -2) + bias.permute(0, 3, 1, 2)
        return attention.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


ORIGINAL_BLOCKS = (WindowBlock, OpaqueBlock)
ORIGINAL_MODELS = (Mapped, Pooled, Decoupled, Guided, EncoderLayers, GatedSkips)
