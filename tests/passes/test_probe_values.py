"""What the full graph takes from the probe, though the cached graph never reads it."""

from __future__ import annotations

import pytest
import torch
from capture import capture
from models import HEADS, WIDTH, Attention, Block, Stack, build, timesteps, tokens
from torch import Tensor, nn

import rfc_compile


class NormedTwice(Block):
    """The MLP reads a second result of its norm, behind the region's input."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        shift, scale, gate, *_ = self.modulate(c)
        h, _, rstd = torch.native_layer_norm(x, [WIDTH], None, None, 1e-5)
        up, act, down = self.mlp
        return x + gate * down(act(up(h * (1 + scale) + shift)) * rstd)


class HeadwiseAttention(Attention):
    """Attention by matmuls: views of their results by symbolic sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            z.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for z in self.qkv(x).chunk(3, dim=-1)
        )
        scores = (q @ k.transpose(2, 3)) * WIDTH**-0.5
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class HeadwiseBlock(Block):
    """A block of it."""

    def build(self) -> None:
        super().build()
        self.attn = HeadwiseAttention()


class Normed(Stack):
    """Blocks with a norm of two results."""

    block = NormedTwice


class Pictures(Stack):
    """Patches of 2 x 2 of an image of any size as tokens."""

    block = HeadwiseBlock

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(4, WIDTH, 2, stride=2)

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return super().forward(x, t, text)


def test_a_result_that_only_the_full_graph_reads_is_given_by_the_probe() -> None:
    split = capture(build(Normed), tokens(), timesteps(9)).split
    assert split is not None
    assert split.probe is not None
    live = {*split.full.takes, *split.cached.takes}.difference(split.inputs)
    assert live <= set(split.probe.gives)
    assert {*split.full.takes}.difference(split.inputs, split.cached.takes)


def pictures(batch: int, side: int) -> Tensor:
    """Noise of shape (batch, 4, side, side)."""
    generator = torch.Generator().manual_seed(side)
    return torch.randn(batch, 4, side, side, generator=generator)


@pytest.mark.parametrize(
    ("model", "latents"),
    [
        (Normed, [tokens(1, 2), tokens(2, 3)]),
        (Pictures, [pictures(2, 8), pictures(2, 12)]),
    ],
)
def test_the_second_size_is_cached(
    model: type[nn.Module], latents: list[Tensor]
) -> None:
    """Sizes become symbols, which regions compute with; full steps stay exact."""
    plain = build(model)
    options = {"inner": "eager", "min_coverage": 0.0, "corrector": "off"}
    probing = {"threshold": 100.0, "max_cached_run": 1}
    compiled = torch.compile(plain, backend="rfc", options={**options, **probing})
    for latent in latents:
        for step in range(4):
            call = latent + 0.02 * step, timesteps(20 - step, len(latent))
            with torch.no_grad(), rfc_compile.trajectory("walk", num_steps=4):
                found, exact = compiled(*call), plain(*call)
            if rfc_compile.stats(compiled).decisions[-1].full:
                torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)
        full = [d.full for d in rfc_compile.stats(compiled).decisions]
        assert {*full} == {True, False}
    assert not rfc_compile.explain(compiled).uncached_reasons
