"""Blocks and models with one peculiarity each, on top of tests/models.py."""

from __future__ import annotations

import torch
from joint_models import (
    BareText,
    Chained,
    Crossed,
    Joint,
    Packed,
    Refined,
    TextFirst,
    TwoWayBlock,
)
from models import (
    SIDE,
    TOKENS,
    WIDTH,
    Attention,
    Block,
    ConvMLP,
    CrossAttention,
    MatmulAttention,
    RotatedAttention,
    RoutedMLP,
    Stack,
    attend,
    text_tokens,
    tokens,
)
from original_forms import ORIGINAL_BLOCKS, ORIGINAL_MODELS
from torch import Tensor, nn
from whole_models import FromLinear, Half, Images, LongSkip, TimeOnly


class MatmulBlock(Block):
    """Attention by two matmuls."""

    def build(self) -> None:
        super().build()
        self.attn = MatmulAttention()


class RotatedBlock(Block):
    """Attention with in-place rotary positions."""

    def build(self) -> None:
        super().build()
        self.attn = RotatedAttention()


class ConvBlock(Block):
    """Convolutional MLP."""

    def build(self) -> None:
        super().build()
        self.mlp = ConvMLP()


class RoutedBlock(Block):
    """MLP of two experts."""

    def build(self) -> None:
        super().build()
        self.mlp = RoutedMLP()


class CrossBlock(Block):
    """Self-attention, cross-attention to the text, MLP."""

    def build(self) -> None:
        super().build()
        self.norm3 = nn.LayerNorm(WIDTH)
        self.cross = CrossAttention()

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(c)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        x = x + self.cross(self.norm3(x), text)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class ParallelBlock(Block):
    """Attention and MLP side by side, one linear out of both."""

    parts = 3

    def build(self) -> None:
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.up = nn.Linear(WIDTH, 5 * WIDTH)
        self.out = nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        shift, scale, gate = self.modulate(c)
        h = self.up(self.norm(x) * (1 + scale) + shift)
        q, k, v, hidden = h.split([WIDTH, WIDTH, WIDTH, 2 * WIDTH], dim=-1)
        both = torch.cat([attend(q, k, v), nn.functional.gelu(hidden)], dim=-1)
        return x + gate * self.out(both)


class TwoGateBlock(ParallelBlock):
    """One linear in, two linears out, each with its own gate and add."""

    parts = 4

    def build(self) -> None:
        super().build()
        self.out1, self.out2 = nn.Linear(WIDTH, WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        shift, scale, gate1, gate2 = self.modulate(c)
        h = self.up(self.norm(x) * (1 + scale) + shift)
        q, k, v, hidden = h.split([WIDTH, WIDTH, WIDTH, 2 * WIDTH], dim=-1)
        attended = gate1 * self.out1(attend(q, k, v))
        return x + attended + gate2 * self.out2(nn.functional.gelu(hidden))


class SummedBlock(Block):
    """``x + attn(x) + mlp(x)``: both branches start from the block's input."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(c)
        attended = gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        mixed = gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        return x + attended + mixed


class SharedNormBlock(Block):
    """Two branches read the same modulated value, one after the other."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        shift1, scale1, gate1, _, _, gate2 = self.modulate(c)
        h = self.norm1(x) * (1 + scale1) + shift1
        x = x + gate1 * self.attn(h)
        return x + gate2 * self.mlp(h)


class PostNormBlock(Block):
    """``x + gate * norm(branch(norm(x)))``."""

    def build(self) -> None:
        super().build()
        self.post1, self.post2 = nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH)

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        _, scale1, gate1, _, scale2, gate2 = self.modulate(c)
        x = x + gate1 * self.post1(self.attn(self.norm1(x) * (1 + scale1)))
        return x + gate2 * self.post2(self.mlp(self.norm2(x) * (1 + scale2)))


class AddcmulBlock(Block):
    """The gate and the add in one op."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(c)
        x = torch.addcmul(x, gate1, self.attn(self.norm1(x) * (1 + scale1) + shift1))
        h = self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        return torch.addcmul(x, h, gate2)


class WholeBlock(Block):
    """Both adds use the block's input, so only the whole block is a region."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(c)
        attended = gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        h = self.norm2(x + attended) * (1 + scale2) + shift2
        return x + gate2 * self.mlp(h)


class NestedBlock(Block):
    """A residual add inside the MLP branch."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(c)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        up, act, down = self.mlp
        h = up(self.norm2(x) * (1 + scale2) + shift2)
        h = h + act(h)
        h = down(h)
        h = h + self.attn.out(h)
        return x + gate2 * h


class LeakingBlock(Block):
    """The attention's projection is read again after the block's first add."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(c)
        q, k, v = self.attn.qkv(self.norm1(x) * (1 + scale1) + shift1).chunk(3, -1)
        x = x + gate1 * self.attn.out(attend(q, k, v))
        h = self.norm2(x) * (1 + scale2) + shift2 + v.mean(1, keepdim=True)
        return x + gate2 * self.mlp(h)


class LoneLinearBlock(Block):
    """One branch is a single linear."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        x = x + self.attn.out(self.norm1(x))
        return super().forward(x, c, text)


class PermutedBlock(Block):
    """The MLP's output has its channels first, and the gated one is viewed flat."""

    def build(self) -> None:
        super().build()
        self.other = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(c)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        up, act, down = self.mlp
        h = act(up(self.norm2(x) * (1 + scale2) + shift2))
        branch = gate2.mT * (down(h).mT + self.other(h).mT)
        return x + branch.mT.reshape(x.shape[0], -1).unflatten(1, x.shape[1:])


class GatedAttention(Attention):
    """A sigmoid gate, computed from the input, on what the attention reads."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        read = attend(*self.qkv(x).chunk(3, dim=-1))
        return self.out(read * self.gate(x).sigmoid())


class GatedAttentionBlock(Block):
    """Attention with a gate of its own, which is not an MLP."""

    def build(self) -> None:
        super().build()
        self.attn = GatedAttention()


class LinearAttention(Attention):
    """Two matmuls with a feature map instead of a softmax."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out(q.relu() @ (k.relu().transpose(1, 2) @ v))


class LinearAttentionBlock(Block):
    """Attention without a softmax, which is not an MLP."""

    def build(self) -> None:
        super().build()
        self.attn = LinearAttention()


class Mixed(Stack):
    """Regions whose state looks alike and is put together differently."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ParallelBlock(), TwoGateBlock()])


def stack_of(block_type: type[Block]) -> type[Stack]:
    """A stack of two such blocks."""
    base = Joint if block_type is TwoWayBlock else Stack
    return type(f"{block_type.__name__}Stack", (base,), {"block": block_type})


def inputs_of(model: nn.Module, seed: int = 0, batch: int = 2) -> tuple[Tensor, ...]:
    """The latent, and the text where the model reads one."""
    if isinstance(model, Images):
        generator = torch.Generator().manual_seed(seed)
        return (torch.randn(batch, 2, 2 * SIDE, 2 * SIDE, generator=generator),)
    if isinstance(model, Small):
        return (tokens(seed, batch)[..., :4].contiguous(),)
    block = getattr(model, "block", None)
    wants_text = isinstance(model, Joint) or block in (CrossBlock, TwoWayBlock)
    latent = tokens(seed, batch)
    assert latent.shape[1] == TOKENS
    return (latent, text_tokens(batch=batch)) if wants_text else (latent,)


class Small(nn.Module):
    """Two regions of two linears each: small enough for golden graphs."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(4, 4, bias=False) for _ in range(4)]
        self.first = nn.Sequential(*layers[:2])
        self.second = nn.Sequential(*layers[2:])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        gate = t.sin()[:, None, None]
        x = x + gate * self.first(x * gate)
        return x + gate * self.second(x * gate)


BLOCKS = (
    Block,
    MatmulBlock,
    RotatedBlock,
    ConvBlock,
    RoutedBlock,
    CrossBlock,
    ParallelBlock,
    TwoGateBlock,
    SummedBlock,
    SharedNormBlock,
    PostNormBlock,
    AddcmulBlock,
    WholeBlock,
    NestedBlock,
    LeakingBlock,
    LoneLinearBlock,
    PermutedBlock,
    GatedAttentionBlock,
    LinearAttentionBlock,
    TwoWayBlock,
    *ORIGINAL_BLOCKS,
)
WHOLE_MODELS = (
    Joint,
    TextFirst,
    Refined,
    BareText,
    Chained,
    Packed,
    Crossed,
    FromLinear,
    LongSkip,
    TimeOnly,
    Mixed,
    Half,
    Images,
    Small,
    *ORIGINAL_MODELS,
)
ZOO: dict[str, type[nn.Module]] = {
    **{block.__name__: stack_of(block) for block in BLOCKS},
    **{model.__name__: model for model in WHOLE_MODELS},
}
