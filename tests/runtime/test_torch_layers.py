"""Layers of torch.nn whose container Dynamo gives up: the remedies of docs/guide.md."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import WIDTH, build, timesteps, tokens
from torch import Tensor, nn

import rfc_compile

OPTIONS = {"inner": "eager"}


class Policy(nn.Module):
    """A policy: actions attend to the timestep and to observations, with a mask."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(WIDTH, 2, 32, batch_first=True)
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.decoder = nn.TransformerDecoder(layer, num_layers=2)
        self.register_buffer("mask", torch.full((6, 6), -torch.inf).triu(1))
        self.said: dict[str, bool] = {}

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        time = (timestep[:, None, None] * torch.arange(WIDTH) / WIDTH).sin()
        return self.decoder(self.embed(x), time, tgt_mask=self.mask, **self.said)


@torch.no_grad()
def walk(model: Any, steps: int = 12) -> list[Tensor]:
    """Euler steps; the latents."""
    latents = [tokens()]
    for step in range(steps):
        x, t = latents[-1], timesteps(1 - step / steps)
        latents.append(x - model(x, t) / steps)
    return latents


def check(model: Any) -> None:
    plain = build(Policy)
    found, expected = walk(model), walk(plain)
    statistics = rfc_compile.stats(model)
    assert statistics.nfc < len(statistics.decisions) == 12
    assert torch.equal(found[1], expected[1])
    error = (found[-1] - expected[-1]).norm() / expected[-1].norm()
    assert 0 < error < 0.2


def test_the_break_is_told() -> None:
    model = torch.compile(build(Policy), backend="rfc", options=OPTIONS)
    with pytest.warns(rfc_compile.UncachedWarning, match="graph breaks"):
        walk(model)
    (reason,) = rfc_compile.explain(model).graph_breaks
    assert "Tensor.item()" in reason
    assert "transformer.py" in reason
    assert "tgt_is_causal=" in reason, "not to be edited by whoever reads this"


def test_layers_compiled_one_by_one() -> None:
    model: Any = build(Policy)
    layers = model.decoder.layers
    for i, layer in enumerate(layers):
        layers[i] = torch.compile(layer, backend="rfc", options=OPTIONS)
    check(model)


def test_causality_that_is_said() -> None:
    model: Any = build(Policy)
    model.said = {"tgt_is_causal": False}
    rfc = torch.compile(model, backend="rfc", options=OPTIONS)
    check(rfc)
    assert [region.kind for region in rfc_compile.explain(rfc).regions] == ["stack"]
