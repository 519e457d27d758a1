"""What inductor makes of a cached step: state is read once, nothing is copied."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch
from denoising import small_glyph
from options import MODULES
from torch._inductor.graph import GraphLowering

import rfc_compile
from rfc_compile.tools.measure.glyph_dit import initial_noise

BATCH, TOKENS, WIDTH = 3, 64, 128
BLOCKS, ORDER = 2, 2


@pytest.fixture(scope="module")
def cached_code() -> str:
    """The source of the cached graph, of a model with BLOCKS blocks."""
    torch.compiler.reset()
    code: list[str] = []
    options = {"schedule": "interval", "interval": 8, "max_cached_run": None}
    model: Any = torch.compile(
        small_glyph(BLOCKS),
        backend="rfc",
        options={**options, **MODULES, "warmup": 2, "min_coverage": 0.0},
    )
    start = initial_noise(BATCH, 0)
    direction = initial_noise(BATCH, 1)
    uncached = torch._inductor.config.patch(fx_graph_cache=False)
    with (
        pytest.MonkeyPatch.context() as patched,
        rfc_compile.trajectory("walk", num_steps=3),
        torch.no_grad(),
        uncached,
        torch._functorch.config.patch(enable_autograd_cache=False),
    ):
        patched.setattr(GraphLowering, "save_output_code", staticmethod(code.append))
        for k in range(3):
            timestep = torch.full((BATCH,), 900 - 10 * k)
            latent = start + 0.01 * k * direction
            model(latent, timestep=timestep, class_labels=torch.arange(BATCH))
    full, cached = code
    assert "mm(" in full
    return cached


def test_the_stream_is_written_to_one_buffer(cached_code: str) -> None:
    """State is read where it lies, and the stream updated in place."""
    shape = rf"empty_strided\w*\(\({BATCH}, {TOKENS}, {WIDTH}\)"
    assert len(re.findall(shape, cached_code)) == 1
    assert "copy_(" not in cached_code


def test_no_region_is_computed(cached_code: str) -> None:
    """What remains are the layers around the blocks, and those on the timestep."""
    matmuls = re.findall(r"extern_kernels\.\w*mm\(", cached_code)
    assert len(matmuls) <= 1  # the last projection
    assert "flash" not in cached_code


def test_state_is_read_once(cached_code: str) -> None:
    """But for the watched input, which the signal and its region both look at."""
    everywhere = rf"loadu\((in_ptr\d+) \+ [^,;]*{TOKENS * WIDTH}L\*x0"
    reads = Counter(
        (kernel, name)
        for kernel, body in enumerate(cached_code.split("async_compile.cpp")[1:])
        for name in re.findall(everywhere, body)
    )
    regions = 2 * BLOCKS
    kept = 2 * regions * (ORDER + 1)
    embedded = 1  # the stream before the first block
    assert len(reads) == kept + embedded
    again = [read for read, count in reads.items() if count > 1]
    assert len(again) <= ORDER + 1 + embedded
