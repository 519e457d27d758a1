"""Every input but the latent is watched, whatever its name and shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from capture import Capture, capture
from models import TOKENS, WIDTH, Stack, build, timesteps, tokens
from torch import Tensor, nn

import rfc_compile


class Pooled(Stack):
    """Text ``y`` of other channels joins the stream; its first token is added."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH - 4, WIDTH)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        y = self.project(y)
        joined = torch.cat([x, y], 1) + y[:, :1]
        return super().forward(joined, t)[:, : x.shape[1]]


class Referenced(Stack):
    """A reference of the latent's shape joins the stream, read before the latent."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat([y, x], 1), t)[:, y.shape[1] :]


class Packed(Pooled):
    """No result is shaped like the latent."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, t, y).flatten(1)


def text(seed: int, count: int, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, channels, generator=generator)


def roles(captured: Capture) -> tuple[list[str], tuple[str, ...]]:
    """Names of the latents and of the inputs that are watched."""
    inputs = captured.found.inputs
    places = captured.functional.graph.find_nodes(op="placeholder")
    names = {node.name: name for node, name in zip(places, inputs.names, strict=True)}
    return [names[node.name] for node in inputs.latents], inputs.conditioning_names


CASES = [
    (Pooled, text(0, TOKENS, WIDTH - 4)),
    (Pooled, text(0, TOKENS + 1, WIDTH - 4)),
    (Referenced, text(0, TOKENS, WIDTH)),
    (Packed, text(0, 2, WIDTH - 4)),
]


@pytest.mark.parametrize(("model", "other"), CASES)
def test_what_is_not_the_latent_is_watched(model: type[Stack], other: Tensor) -> None:
    latents, watched = roles(capture(build(model), tokens(), timesteps(9), other))
    assert "x" in latents
    assert watched == ("y",)


@pytest.mark.parametrize(("model", "other"), CASES)
@pytest.mark.parametrize(
    "schedule",
    [{"threshold": 100.0}, {"schedule": "interval", "interval": 8}],
    ids=["probe", "static"],
)
def test_a_small_change_of_it_is_noticed(
    model: type[Stack], other: Tensor, schedule: dict[str, Any]
) -> None:
    """By less than a step moves the latent."""
    options = {"inner": "eager", "min_coverage": 0.0, **schedule}
    compiled = torch.compile(build(model), backend="rfc", options=options)
    x = tokens()
    for step in range(8):
        if step == 5:
            other = other + 0.001
        with torch.no_grad(), rfc_compile.trajectory("walk", num_steps=8):
            compiled(x * (1 - 0.03 * step), timesteps(20 - step), other)
    decisions = rfc_compile.stats(compiled).decisions
    assert len(decisions) == 8
    assert (decisions[5].full, decisions[5].reason) == (True, "conditioning")
    assert any(not d.full for d in decisions[:5])
