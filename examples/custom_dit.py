"""A diffusion transformer in plain PyTorch, cached by rfc without a change to it.

Nothing here is known to rfc: the qkv projection is fused, the MLP is SwiGLU, norms are
RMSNorm, and the model is not from any library. The weights are random (the gates too,
which training would start at zero), so the images mean nothing; the work skipped and
the error it makes are real.

Run: python examples/custom_dit.py [--inner inductor|aot_eager|eager]

Shape suffixes: B batch, C channels, H height, W width, L tokens, D width of the model,
N heads, K width of a head.
"""

import math
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rfc_compile


@dataclass(frozen=True)
class Config:
    """Sizes of a `CustomDiT`."""

    image_pixels: int = 32
    channels: int = 3
    patch_pixels: int = 4
    width: int = 128
    depth: int = 6
    heads: int = 4
    classes: int = 10


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Attends over the tokens; (B, L, D) to (B, L, D)."""
        qkv = self.qkv(x_BLD).unflatten(-1, (3, self.heads, -1))
        q_BNLK, k_BNLK, v_BNLK = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out_BNLK = F.scaled_dot_product_attention(q_BNLK, k_BNLK, v_BNLK)
        return self.out(out_BNLK.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """MLP with a gated hidden layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = 3 * config.width
        self.up = nn.Linear(config.width, 2 * hidden)
        self.down = nn.Linear(hidden, config.width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Transforms each token; (B, L, D) to (B, L, D)."""
        gate, value = self.up(x_BLD).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class Block(nn.Module):
    """Attention and MLP, each modulated and gated by the conditioning."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm_attention = nn.RMSNorm(config.width, elementwise_affine=False)
        self.attention = Attention(config)
        self.norm_mlp = nn.RMSNorm(config.width, elementwise_affine=False)
        self.mlp = SwiGLU(config)
        self.modulation = nn.Linear(config.width, 6 * config.width)

    def forward(self, x_BLD: Tensor, condition_BD: Tensor) -> Tensor:
        """Adds both branches to the stream; (B, L, D) to (B, L, D)."""
        modulation = self.modulation(F.silu(condition_BD)).unsqueeze(1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.chunk(6, dim=-1)
        h_BLD = self.norm_attention(x_BLD) * (1 + scale_a) + shift_a
        x_BLD = x_BLD + gate_a * self.attention(h_BLD)
        h_BLD = self.norm_mlp(x_BLD) * (1 + scale_m) + shift_m
        return x_BLD + gate_m * self.mlp(h_BLD)


class CustomDiT(nn.Module):
    """Predicts the velocity of noisy images."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        patch = config.patch_pixels
        tokens = (config.image_pixels // patch) ** 2
        self.embed = nn.Conv2d(config.channels, config.width, patch, stride=patch)
        self.position_LD = nn.Parameter(0.02 * torch.randn(tokens, config.width))
        self.time_mlp = nn.Sequential(
            nn.Linear(config.width, config.width),
            nn.SiLU(),
            nn.Linear(config.width, config.width),
        )
        self.class_embedding = nn.Embedding(config.classes, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width, elementwise_affine=False)
        self.head = nn.Linear(config.width, patch * patch * config.channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predicts the velocity.

        Args:
            x: (B, C, H, W) noisy images.
            t: (B,) float, time from 1 (noise) to 0 (image).
            y: (B,) int64 classes.

        Returns:
            (B, C, H, W) velocity.
        """
        condition_BD = self.time_mlp(self._time_features(t)) + self.class_embedding(y)
        x_BLD = self.embed(x).flatten(2).transpose(1, 2) + self.position_LD
        for block in self.blocks:
            x_BLD = block(x_BLD, condition_BD)
        return self._unpatchify(self.head(self.norm(x_BLD)))

    def _time_features(self, t: Tensor) -> Tensor:
        half = self.config.width // 2
        exponent = torch.arange(half, device=t.device) / half
        angle = 1000 * t[:, None] * torch.exp(-math.log(10_000) * exponent)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    def _unpatchify(self, x_BLP: Tensor) -> Tensor:
        patch = self.config.patch_pixels
        side = self.config.image_pixels // patch
        grid = x_BLP.unflatten(1, (side, side)).unflatten(-1, (patch, patch, -1))
        return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


@torch.no_grad()
def sample(
    model: Callable[[Tensor, Tensor, Tensor], Tensor],
    noise: Tensor,
    classes: Tensor,
    steps: int,
) -> Tensor:
    """Follows the velocity from `noise` (B, C, H, W) to images in `steps` steps."""
    x = noise
    for step in range(steps):
        t = torch.full((len(x),), 1 - step / steps, device=x.device)
        x = x - model(x, t, classes) / steps
    return x


def main() -> None:
    """Samples the same noise uncached and with rfc, and prints the difference."""
    parser = ArgumentParser(description=main.__doc__)
    parser.add_argument("--inner", default="inductor", help="inner backend")
    parser.add_argument("--threshold", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()

    torch.manual_seed(0)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    model = CustomDiT(Config()).eval().requires_grad_(False).to(device)
    noise = torch.randn(4, 3, 32, 32, device=device)
    classes = torch.arange(4, device=device)

    reference = sample(model, noise, classes, args.steps)
    options = {"threshold": args.threshold, "inner": args.inner}
    compiled = torch.compile(model, backend="rfc", options=options)
    images = sample(compiled, noise, classes, args.steps)

    print(rfc_compile.explain(compiled))
    print(rfc_compile.stats(compiled))
    error = (images - reference).square().mean()
    peak = reference.max() - reference.min()
    print(f"PSNR {10 * torch.log10(peak.square() / error):.1f} dB")


if __name__ == "__main__":
    main()
