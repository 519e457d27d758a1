"""Forms of original repositories: what the passes and full steps make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from capture import capture, zoo_capture
from models import WIDTH, Stack, build, timesteps, tokens
from original_forms import EncoderLayers, GatedSkips, PairBiased
from torch import Tensor, nn

import rfc_compile
from rfc_compile.errors import UncachedWarning
from rfc_compile.passes.fx_utils import packet
from rfc_compile.passes.rewrites.fused_layers import opened, self_attention

UNBOUND: dict[str, Any] = {
    "backend": "rfc",
    "options": {"inner": "eager", "min_coverage": 0.0},
}
FUSED = (
    torch.ops.aten._transformer_encoder_layer_fwd,
    torch.ops.aten._native_multi_head_attention,
)


class Masked(nn.Module):
    """Layers of torch.nn with a mask of positions or of padding."""

    def __init__(self, keyword: str, mask_of: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.inner = EncoderLayers(norm_first=True)
        self.keyword, self.mask_of = keyword, mask_of

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x = x * timestep.sin()[:, None, None]
        mask = self.mask_of(len(x))
        for layer in self.inner.layers:
            x = layer(x, **{self.keyword: mask})
        return x


class SelfAttention(nn.Module):
    """nn.MultiheadAttention by itself, with the weights it gives by default."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        h, _ = self.attn(x, x, x)
        return x + h * timestep.sin()[:, None, None]


class FusedAttention(SelfAttention):
    """The same as one op, as older releases of torch trace it."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        attn = self.attn
        inner, outer = (attn.in_proj_weight, attn.in_proj_bias), attn.out_proj
        h, _ = torch._native_multi_head_attention(
            x, x, x, WIDTH, 2, *inner, outer.weight, outer.bias
        )
        return x + h * timestep.sin()[:, None, None]


CAUSAL = torch.ones(6, 6).triu(1).bool()
PADDING = torch.arange(6).expand(2, 6) > torch.tensor([[3], [5]])
FORMS: dict[str, Any] = {
    "gelu": EncoderLayers,
    "relu": lambda: EncoderLayers(activation="relu"),
    "norm_first": lambda: EncoderLayers(norm_first=True),
    "positions": lambda: Masked("src_mask", lambda _: CAUSAL),
    "padding": lambda: Masked(
        "src_key_padding_mask", lambda batch: PADDING.repeat(batch // 2, 1)
    ),
    "attention": SelfAttention,
    "fused_attention": FusedAttention,
    "gated": GatedSkips,
}


@pytest.mark.parametrize("name", FORMS)
def test_fused_layers_keep_their_bits(name: str) -> None:
    """Full steps are the fast path's, though its ops are run one by one."""
    model = build(FORMS[name])
    options = {"inner": "eager", "min_coverage": 0.0}
    rfc = torch.compile(model, backend="rfc", options=options)
    plain = torch.compile(build(FORMS[name]), backend="eager")
    for x in (tokens(), tokens().mT.contiguous().mT):
        with torch.no_grad():
            found = rfc(x, timesteps(9))
            expected = plain(x, timesteps(9))
        real = ~expected.isnan()
        assert torch.equal(found[real], expected[real])
    assert rfc_compile.explain(rfc).regions


@pytest.mark.parametrize("dynamic", [True, None], ids=["dynamic", "second size"])
@pytest.mark.parametrize("name", FORMS)
def test_fused_layers_keep_their_bits_at_any_size(
    name: str, dynamic: bool | None
) -> None:
    rfc = torch.compile(build(FORMS[name]), dynamic=dynamic, **UNBOUND)
    plain = torch.compile(build(FORMS[name]), backend="eager", dynamic=dynamic)
    for batch in (2, 4, 6):
        call = tokens(batch=batch), timesteps(9, batch)
        with torch.no_grad():
            found, expected = rfc(*call), plain(*call)
        real = ~expected.isnan()
        assert torch.equal(found[real], expected[real])
    explanation = rfc_compile.explain(rfc)
    assert explanation.regions
    assert not explanation.uncached_reasons


@pytest.mark.parametrize("width", [16, 48])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_attention_has_the_bits_of_the_fused_op(width: int, dtype: torch.dtype) -> None:
    attn: Any = build(lambda: nn.MultiheadAttention(width, 2)).to(dtype)
    x = torch.randn(2, 6, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    projections = attn.in_proj_weight, attn.in_proj_bias, *attn.out_proj.parameters()
    call = x, x, x, width, 2, *projections
    expected = torch._native_multi_head_attention(*call)
    assert all(map(torch.equal, self_attention(*call), expected))


def test_no_fused_layer_is_left() -> None:
    graph = zoo_capture("EncoderLayers").functional.graph
    assert not {packet(node) for node in graph.nodes}.intersection(FUSED)


def test_other_functions_stand_for_themselves() -> None:
    x, y = tokens(0), tokens(1)
    assert opened(torch.add, (x, y)) is torch.add
    fused = torch._native_multi_head_attention
    assert opened(fused, (x, y, y)) is fused


def test_a_stack_whose_skips_are_summed_is_one_region() -> None:
    """It ends at the sum, of which the values themselves are kept."""
    call = build(GatedSkips), tokens(), timesteps(9)
    captured = capture(*call, granularity="stack")
    (region,) = captured.found.regions.found
    assert region.kind == "stack"
    assert not region.bases
    assert [str(node.target) for node in region.outputs] == ["aten.sum.dim_IntList"]
    assert captured.found.regions.coverage > 0.9
    assert not captured.found.regions.merge_refusals


def test_constants_read_no_tensor() -> None:
    graph = zoo_capture("Mapped").functional.graph
    names = {str(node.target) for node in graph.nodes}
    assert "aten.full.default" in names
    assert "aten.new_zeros.default" not in names


def test_scores_with_a_bias_are_no_residual_stream() -> None:
    regions = capture(PairBiased(), tokens(), timesteps(9)).found.regions
    assert [region.kind for region in regions.found] == ["attention", "mlp"] * 2
    assert not regions.refused


class Unrolled(nn.Module):
    """A sampling loop compiled as a whole: one call is one image."""

    def __init__(self, *, timed: bool) -> None:
        super().__init__()
        self.inner, self.timed = Stack(), timed

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        for step in range(3):
            t = timestep if self.timed else torch.full((len(x),), 1 - step / 3)
            x = x - self.inner(x, t) / 3
        return x


def test_a_sampling_loop_is_refused() -> None:
    rfc = torch.compile(build(lambda: Unrolled(timed=False)), **UNBOUND)
    with (
        torch.no_grad(),
        pytest.warns(UncachedWarning, match=r"all weights .* whole: compile the"),
    ):
        rfc(tokens(), timesteps(9))


class Tied(nn.Module):
    """A block compiled alone that uses one of its layers twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Stack().blocks[0]

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return x + self.inner.mlp(self.inner(x, c, x))


def test_a_block_that_uses_a_layer_twice_is_cached() -> None:
    rfc = torch.compile(build(Tied), **UNBOUND)
    with torch.no_grad():
        rfc(tokens(), tokens()[:, 0])
    assert rfc_compile.explain(rfc).regions


def test_weights_used_again_at_one_timestep_are_cached() -> None:
    regions = capture(Unrolled(timed=True), tokens(), timesteps(9)).found.regions
    assert len(regions.found) == 12
