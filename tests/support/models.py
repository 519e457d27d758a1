"""Tiny residual models in plain PyTorch, one for each shape a block can have.

All are seeded, in eval mode and without gradients, and are called ``model(x, t)`` with
tokens x (B, T, C) or images x (B, C, H, W). The text of models that have one is a
third argument.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, TOKENS, TEXT, SIDE = 16, 2, 6, 4, 4


def embed_time(t: Tensor) -> Tensor:
    """Sines and cosines of the timestep, (B, ...) to (B, ..., WIDTH)."""
    rates = torch.exp(-torch.arange(WIDTH // 2, device=t.device) / 2.0)
    angles = t.float()[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Time(nn.Module):
    """The timestep's features through a small MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, WIDTH)
        self.down = nn.Linear(WIDTH, WIDTH)

    def forward(self, t: Tensor) -> Tensor:
        return self.down(F.silu(self.up(embed_time(t))))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Multi-head attention of (B, T, C) tensors."""
    q, k, v = (z.unflatten(-1, (HEADS, -1)).transpose(1, 2) for z in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Self-attention with a fused projection."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(attend(*self.qkv(x).chunk(3, dim=-1)))


class MatmulAttention(Attention):
    """The same by two matmuls and a softmax."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scores = (q @ k.transpose(1, 2)) * WIDTH**-0.5
        return self.out(scores.softmax(-1) @ v)


class RotatedAttention(Attention):
    """Rotary positions written into an empty tensor by two setitems."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out(attend(self.rotate(q), self.rotate(k), v))

    @staticmethod
    def rotate(x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[1], device=x.device)[:, None] * 0.1
        even, odd = x[..., ::2], x[..., 1::2]
        out = torch.empty_like(x)
        out[..., ::2] = even * angle.cos() - odd * angle.sin()
        out[..., 1::2] = even * angle.sin() + odd * angle.cos()
        return out


class CrossAttention(nn.Module):
    """Queries from the stream, keys and values from the text."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, WIDTH)
        self.kv = nn.Linear(WIDTH, 2 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        return self.out(attend(self.q(x), *self.kv(text).chunk(2, dim=-1)))


class MLP(nn.Sequential):
    """Linear, GELU, linear."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )


class RoutedMLP(nn.Module):
    """Two experts weighed by a router that reads the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 2)
        self.experts = nn.ModuleList(MLP() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        share = self.router(x).softmax(-1)
        outputs = [expert(x) for expert in self.experts]
        return sum(share[..., i, None] * out for i, out in enumerate(outputs))


class ConvMLP(nn.Module):
    """1x1, depthwise and 1x1 convolutions over the tokens as an image."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Conv2d(WIDTH, 2 * WIDTH, 1)
        self.depth = nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, padding=1, groups=2 * WIDTH)
        self.down = nn.Conv2d(2 * WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        image = x.transpose(1, 2).unflatten(2, (2, -1))
        image = self.down(F.silu(self.depth(F.silu(self.up(image)))))
        return image.flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Base of the blocks: adaLN modulation from the timestep's features."""

    parts = 6

    def __init__(self) -> None:
        super().__init__()
        self.modulation = nn.Linear(WIDTH, self.parts * WIDTH)
        self.build()

    def build(self) -> None:
        """Make the block's layers."""
        self.norm1 = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.attn = Attention()
        self.mlp = MLP()

    def modulate(self, c: Tensor) -> tuple[Tensor, ...]:
        """Shifts, scales and gates, each (B, 1, WIDTH)."""
        return self.modulation(F.silu(c))[:, None].chunk(self.parts, dim=-1)

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(c)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class Stack(nn.Module):
    """Embedding, two blocks and a head."""

    block: type[Block] = Block
    depth = 2

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.time = Time()
        self.blocks = nn.ModuleList(self.block() for _ in range(self.depth))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WIDTH)

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        """The stream through all blocks."""
        for block in self.blocks:
            x = block(x, c, text)
        return x

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> Tensor:
        x = self.embed(x)
        text = x if text is None else text
        x = self.run_blocks(x, self.time(t), text)
        return self.head(self.norm(x))


def build(model: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A seeded model in eval mode, without gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model().eval().requires_grad_(False)


def tokens(seed: int = 0, batch: int = 2) -> Tensor:
    """Noise of shape (batch, TOKENS, WIDTH)."""
    return torch.randn(
        batch, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)
    )


def text_tokens(seed: int = 100, batch: int = 2) -> Tensor:
    """Text features of shape (batch, TEXT, WIDTH)."""
    return tokens(seed, batch)[:, :TEXT].clone()


def timesteps(value: float, batch: int = 2) -> Tensor:
    """The same timestep for every sample."""
    return torch.full((batch,), float(value))
