"""``per_sample=True``: twins in other timesteps, and a target for every sample."""

from __future__ import annotations

from typing import Any

import torch
from denoising import small_glyph
from serving import GlyphRequest, serve, step

import rfc_compile
from rfc_compile.tools.measure.metrics import psnr


def test_twins_of_other_speed_are_not_taken_for_each_other() -> None:
    """In 12 and in 24 steps, one of them later: the fit distinguishes them."""
    arrivals = [(0, 12), (0, 24), (2, 15)]
    plain, exact = small_glyph(), []
    for _, steps in arrivals:
        request = GlyphRequest(3, seed=0, steps=steps)
        while not request.finished:
            step(plain, [request])
        exact.append(request.x)
    options = {"inner": "eager", "min_coverage": 0.0, "per_sample": True}
    model: Any = torch.compile(
        small_glyph(), backend="rfc", options=options, dynamic=True
    )
    twins = [(at, GlyphRequest(3, seed=0, steps=steps)) for at, steps in arrivals]
    other = (0, GlyphRequest(8, seed=1, steps=20))
    *served, _ = serve(model, [*twins, other])
    for request, image in zip(served, exact, strict=True):
        assert psnr(request.x, image).item() > 35


def test_every_sample_meets_a_target_once_a_run_was_seen() -> None:
    options = {"inner": "eager", "per_sample": True, "target_nfc": 8}
    model: Any = torch.compile(
        small_glyph(), backend="rfc", options=options, dynamic=True
    )
    serve(model, [(0, GlyphRequest(3, seed=seed, steps=20)) for seed in range(2)])
    arrivals = [(0, 3), (4, 8), (4, 5), (11, 3)]
    serve(
        model,
        [
            (call, GlyphRequest(label, seed=label + call, steps=20))
            for call, label in arrivals
        ],
    )
    served = rfc_compile.stats(model).samples[2:]
    assert [(len(sample.decisions), sample.nfc) for sample in served] == [(20, 8)] * 4
