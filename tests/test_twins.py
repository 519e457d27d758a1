"""``decide="sample"``: requests with the same noise and prompt in other timesteps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from denoising import small_glyph
from serving import GlyphRequest, serve, step

from rfc_compile import UncachedWarning
from rfc_compile.metrics import psnr


def test_twins_of_other_speed_are_not_taken_for_each_other() -> None:
    """In 12 and in 24 steps, one of them later: nothing is guessed."""
    arrivals = [(0, 12), (0, 24), (2, 15)]
    plain, exact = small_glyph(), []
    for _, steps in arrivals:
        request = GlyphRequest(3, seed=0, steps=steps)
        while not request.finished:
            step(plain, [request])
        exact.append(request.x)
    options = {"inner": "eager", "min_coverage": 0.0, "decide": "sample"}
    model: Any = torch.compile(
        small_glyph(), backend="rfc", options=options, dynamic=True
    )
    twins = [(at, GlyphRequest(3, seed=0, steps=steps)) for at, steps in arrivals]
    other = (0, GlyphRequest(8, seed=1, steps=20))
    with pytest.warns(UncachedWarning, match="may each be the next step of several"):
        *served, _ = serve(model, [*twins, other])
    for request, image in zip(served, exact, strict=True):
        assert psnr(request.x, image).item() > 35
