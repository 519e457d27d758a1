"""Denoisers of many architectures with whole blocks, or all of them, as one region."""

from __future__ import annotations

import pytest
from comparing import CADENCE, compare, compiled
from denoisers import ALL
from marks import ARCHITECTURES

import rfc_compile

STEPS = 6
BLOCKS = (
    "DiTTransformer2DModel",
    "PixArtTransformer2DModel-alpha",
    "SanaTransformer2DModel",
    "SD3Transformer2DModel",
    "QwenImageTransformer2DModel",
    "CogVideoXTransformer3DModel",
    "LTXVideoTransformer3DModel",
    "WanTransformer3DModel",
    "StableAudioDiTModel",
)
STACKS = [name for name in ARCHITECTURES if name != "ZImageTransformer2DModel"]
"""With random weights, Z-Image's steps are too coarse for one region of them all."""

AT_NIGHT = {
    "LatteTransformer3DModel": "blocks over space and over time in turn",
    "AuraFlowTransformer2DModel": "two streams, then one; registers",
}
OFTEN = {
    ("SD3Transformer2DModel", "block"),
    ("LTXVideoTransformer3DModel", "block"),
    *((name, "stack") for name in STACKS),
}
CASES = [(name, "block") for name in BLOCKS]
CASES += [(name, "stack") for name in (*STACKS, *AT_NIGHT)]
REGIONS_OF_STACK = {"Lumina2Transformer2DModel": 2}
"""Stacks, where they are not one: a refiner's stream is no longer read by its shape."""


@pytest.mark.parametrize(
    ("name", "granularity"),
    [
        pytest.param(*case, marks=() if case in OFTEN else pytest.mark.nightly)
        for case in CASES
    ],
)
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
        assert len(kinds) == REGIONS_OF_STACK.get(name, 1), str(found)
    reasons = [text for text in found.notes if text.startswith("granularity=")]
    assert bool(reasons) == (granularity == "stack" and len(kinds) > 1), reasons
