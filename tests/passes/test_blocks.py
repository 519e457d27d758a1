"""blocks_of: which regions make up a block."""

from __future__ import annotations

import pytest

from rfc_compile.passes.analysis.block_grouping import blocks_of
from rfc_compile.passes.analysis.records import Region


def region(module: str, kind: str = "attention", flops: int = 1) -> Region:
    return Region(kind, kind, module, (), (), (), (), flops)


@pytest.mark.parametrize(
    ("modules", "sizes"),
    [
        (["b.0.attn", "b.0.mlp", "b.1.attn", "b.1.mlp"], [2, 2]),
        (["b.0.l.0", "b.0.l.1", "b.1.l.0", "b.1.l.1"], [2, 2]),
        (["down.0.b.0.x", "down.0.b.0.y", "down.0.b.1.x", "down.0.b.1.y"], [2, 2]),
        (["double.0.a", "double.0.b", "single.0", "single.1.proj"], [2, 1, 1]),
        (["b.0.ff.net.0", "b.1.ff.net.0"], [1, 1]),
        (["refiner.attn", "refiner.mlp", "b.0.attn", "b.0.mlp"], [2, 2]),
        (["attn1", "attn2", "ff"], [3]),
    ],
)
def test_blocks_by_their_modules(modules: list[str], sizes: list[int]) -> None:
    kinds = ["attention", "mlp", "conv", "attention+mlp"]
    found = [region(path, kinds[i % 4], i) for i, path in enumerate(modules)]
    blocks = blocks_of(found)
    assert [len(block) for block in blocks] == sizes
    assert [item for block in blocks for item in block] == found


@pytest.mark.parametrize(
    ("kinds", "sizes"),
    [
        ("am" * 3, [2, 2, 2]),
        ("aam" * 2, [3, 3]),
        ("am", [2]),
        ("aamam", [5]),
        ("mmm", [1, 1, 1]),
    ],
)
def test_blocks_by_repetition(kinds: str, sizes: list[int]) -> None:
    """Without modules to tell: what repeats regularly, else all is one block."""
    found = [region("forward", kind) for kind in kinds]
    assert [len(block) for block in blocks_of(found)] == sizes
