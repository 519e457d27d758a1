"""find_regions: which regions and refusals each model of the zoo has."""

from __future__ import annotations

import pytest
import torch
from capture import capture, each_model, zoo_capture
from model_zoo import ZOO, ParallelBlock, inputs_of, stack_of
from models import build, timesteps, tokens
from torch import Tensor

from rfc_compile.passes.analysis.flops import is_expensive

ATTN_MLP = [("attention", 1, 1), ("mlp", 1, 1)] * 2
BOTH = ("attention+mlp", 1, 1)
JOINT = [
    ("attention", 2, 2),
    ("mlp", 1, 1),
    ("mlp", 1, 1),
    ("attention", 1, 1),  # the text stream ends here
    ("mlp", 1, 1),
]
KINDS: dict[str, list[tuple[str, int, int]]] = {
    "Block": ATTN_MLP,
    "MatmulBlock": ATTN_MLP,
    "RotatedBlock": ATTN_MLP,
    "ConvBlock": [("attention", 1, 1), ("conv", 1, 1)] * 2,
    "RoutedBlock": ATTN_MLP,
    "CrossBlock": [("attention", 1, 1), ("attention", 1, 1), ("mlp", 1, 1)] * 2,
    "ParallelBlock": [BOTH] * 2,
    "TwoGateBlock": [("attention+mlp", 1, 2)] * 2,
    "SummedBlock": ATTN_MLP,
    "SharedNormBlock": ATTN_MLP,
    "PostNormBlock": ATTN_MLP,
    "AddcmulBlock": ATTN_MLP,
    "WholeBlock": [BOTH] * 2,
    "NestedBlock": ATTN_MLP,
    "LeakingBlock": [("mlp", 1, 1)] * 2,
    "LoneLinearBlock": ATTN_MLP,
    "PermutedBlock": ATTN_MLP,
    "GatedAttentionBlock": ATTN_MLP,
    "LinearAttentionBlock": ATTN_MLP,
    "TwoWayBlock": [("attention", 1, 1), ("attention", 1, 1), ("mlp", 1, 1)] * 2,
    "Joint": JOINT,
    "TextFirst": JOINT,
    "Refined": [
        ("attention", 1, 1),
        ("mlp", 1, 1),
        ("attention", 2, 2),
        ("mlp", 1, 1),
        ("mlp", 1, 1),
        ("attention", 1, 1),
        ("mlp", 1, 1),
    ],
    "BareText": [("attention", 1, 2), ("mlp", 1, 1), *ATTN_MLP[:2]],
    "Chained": [("attention", 1, 3), ("attention", 1, 2)],
    "Packed": [("attention", 2, 2), ("mlp", 1, 1)] * 2,
    "Crossed": [("mlp", 1, 2)],
    "FromLinear": [("conv", 1, 1), *ATTN_MLP],
    "LongSkip": ATTN_MLP,
    "TimeOnly": ATTN_MLP,
    "Mixed": [BOTH, ("attention+mlp", 1, 2)],
    "Half": [("mlp", 1, 1)] * 2,
    "Images": ATTN_MLP,
    "Small": [("mlp", 1, 1)] * 2,
    "WindowBlock": ATTN_MLP,
    "OpaqueBlock": ATTN_MLP,
    "Mapped": ATTN_MLP,
    "Pooled": ATTN_MLP,
    "Decoupled": [*ATTN_MLP, *[("attention", 1, 1)] * 2],
    "Guided": ATTN_MLP * 2,
    "EncoderLayers": ATTN_MLP,
    "GatedSkips": [*ATTN_MLP[:2], ("mlp", 1, 1)] * 2 + ATTN_MLP[:2],
}
REFUSED = {
    "LongSkip": ["a long skip around residual adds"],
    "LeakingBlock": ["is read outside the region"] * 2,
    "LoneLinearBlock": ["a single linear map"] * 2,
    "Crossed": ["both before and after"],
}


def test_every_model_is_listed() -> None:
    assert set(KINDS) == set(ZOO)


def check_kinds_and_refusals(name: str) -> None:
    regions = zoo_capture(name).found.regions
    found = [(r.kind, len(r.inputs), len(r.outputs)) for r in regions.found]
    assert found == KINDS[name]
    wanted = REFUSED.get(name, [])
    assert len(regions.refused) == len(wanted)
    for refusal, reason in zip(regions.refused, wanted, strict=True):
        assert reason in refusal.reason


def check_records_are_consistent(name: str) -> None:
    captured = zoo_capture(name)
    regions = captured.found.regions
    seen: set[str] = set()
    inner = 0
    for number, region in enumerate(regions.found):
        names = [node.name for node in region.nodes]
        assert region.name.startswith(f"region_{number:03d}_")
        assert seen.isdisjoint(names)
        seen.update(names)
        assert {node.name for node in region.outputs} <= set(names)
        assert not {node.name for node in region.inputs} & set(names)
        assert len(region.input_of) == len(region.outputs)
        assert set(region.input_of) == set(range(len(region.inputs)))
        assert any(map(is_expensive, region.nodes))
        assert region.flops > 0
        inner += region.flops
    assert inner <= regions.flops
    assert regions.coverage == inner / regions.flops


@each_model
def test_every_model(name: str) -> None:
    """The regions of every model, and their records."""
    check_kinds_and_refusals(name)
    check_records_are_consistent(name)


@pytest.mark.parametrize("name", ["Block", "Joint", "CrossBlock", "TwoWayBlock"])
def test_the_stream_itself_stays_outside(name: str) -> None:
    """What a region reads of a stream is not recomputed inside it."""
    captured = zoo_capture(name)
    counts = [sum(map(is_expensive, r.nodes)) for r in captured.found.regions.found]
    limit = {"Block": 3, "Joint": 5, "CrossBlock": 4, "TwoWayBlock": 4}[name]
    assert max(counts) <= limit


def test_names_say_kind_and_module() -> None:
    regions = zoo_capture("Block").found.regions.found
    assert [(r.name, r.module) for r in regions] == [
        ("region_000_attn", "blocks.0.attn"),
        ("region_001_mlp", "blocks.0.mlp"),
        ("region_002_attn", "blocks.1.attn"),
        ("region_003_mlp", "blocks.1.mlp"),
    ]
    (first, _) = zoo_capture("ParallelBlock").found.regions.found
    assert (first.name, first.module) == ("region_000_attn_mlp", "blocks.0")
    assert zoo_capture("ConvBlock").found.regions.found[1].name == "region_001_conv"


def test_outputs_are_before_gate_and_post_norm() -> None:
    """A cached step recomputes the gate from the new timestep."""
    for name in ("Block", "AddcmulBlock", "PostNormBlock"):
        for region in zoo_capture(name).found.regions.found:
            (output,) = region.outputs
            assert output.name.startswith("view")
            assert not any("mul." in str(n.target) for n in region.nodes[-2:])


def test_inputs_are_the_modulated_values() -> None:
    for region in zoo_capture("Block").found.regions.found:
        (value,) = region.inputs
        assert str(value.target) == "aten.add.Tensor"
        assert value.meta["val"].shape == (2, 6, 16)


@pytest.mark.parametrize("name", ["Block", "Joint", "NestedBlock", "Mixed"])
def test_the_analysis_is_deterministic(name: str) -> None:
    model = build(ZOO[name])
    latent, *text = inputs_of(model)
    once, twice = (capture(model, latent, timesteps(9), *text) for _ in range(2))
    assert once.functional.code == twice.functional.code
    described = [
        [(r.name, r.kind, r.module, list(map(str, r.nodes)), r.flops) for r in regions]
        for regions in (once.found.regions.found, twice.found.regions.found)
    ]
    assert described[0] == described[1]
    assert once.found.regions.refused == twice.found.regions.refused


class SamplerStep(stack_of(ParallelBlock)):  # type: ignore[misc]
    """Text and image tokens joined anew for every block, and Euler's step around it."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        text = x[:, :3]
        for block in self.blocks:
            joined = block(torch.cat([text, x], dim=1), c, text)
            text, x = joined[:, :3], joined[:, 3:]
        return x

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> Tensor:
        return x + 0.1 * super().forward(x, t, text)


def test_a_step_of_the_sampler_is_a_long_skip() -> None:
    regions = capture(build(SamplerStep), tokens(), timesteps(9)).found.regions
    assert [region.kind for region in regions.found] == ["attention+mlp"] * 2
    assert [one.reason for one in regions.refused] == REFUSED["LongSkip"]
