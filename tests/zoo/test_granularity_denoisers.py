"""Denoisers of many architectures with whole blocks, or all of them, as one region."""

from __future__ import annotations

import pytest
from comparing import CADENCE, compare, compiled
from denoisers import ALL

import rfc_compile

STEPS = 6
CHEAP = {
    "DiTTransformer2DModel": "class labels in the norms",
    "PixArtTransformer2DModel-alpha": "one modulation for all blocks, cross-attention",
    "SanaTransformer2DModel": "linear attention, convolutions in the MLP",
    "SD3Transformer2DModel": "two streams, the last block drops one",
    "QwenImageTransformer2DModel": "two streams to the end",
    "CogVideoXTransformer3DModel": "video, two streams in one sequence",
    "LTXVideoTransformer3DModel": "a table of modulations, cross-attention",
    "WanTransformer3DModel": "video, cross-attention without a gate",
    "StableAudioDiTModel": "audio, the timestep as a token",
}
DEAR = {
    "LatteTransformer3DModel": "blocks over space and over time in turn",
    "FluxTransformer2DModel": "two streams, then one; attention beside the MLP",
    "AuraFlowTransformer2DModel": "the same with registers",
    "Lumina2Transformer2DModel": "refiners of text and image before the stack",
    "HunyuanDiT2DModel": "long skips from the first half to the second",
}
CASES = [(name, "block") for name in CHEAP]
CASES += [(name, "stack") for name in (*CHEAP, *DEAR)]
APART = {"Lumina2Transformer2DModel": 2}
"""Stacks, where they are not one: a refiner's stream is no longer read by its shape."""


@pytest.mark.parametrize(("name", "granularity"), CASES)
def test_merged_regions(name: str, granularity: str) -> None:
    """Full steps are exact, cached ones close, both where `module` has them."""
    denoiser = ALL[name]
    model = denoiser.model()
    rfc = compiled(model, granularity=granularity)
    run = compare(denoiser, rfc, model, steps=STEPS)
    run.check(CADENCE[:STEPS], error=0.4)  # steps are coarse, weights random
    assert rfc_compile.stats(rfc).nfc == CADENCE[:STEPS].count("F")
    found = rfc_compile.explain(rfc)
    assert found.graphs == denoiser.graphs
    assert found.block_coverage >= denoiser.share, str(found)
    kinds = [region.kind for region in found.regions]
    assert set(kinds) == {granularity}, str(found)
    assert len(kinds) < denoiser.regions
    if granularity == "stack":
        assert len(kinds) == APART.get(name, 1), str(found)
    reasons = [text for text in found.notes if text.startswith("granularity=")]
    assert bool(reasons) == (granularity == "stack" and len(kinds) > 1), reasons
