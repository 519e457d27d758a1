"""Models that are given sigma, the noise added: the form of k-diffusion and EDM."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rfc_compile
from rfc_compile.runtime.registry import reset
from rfc_compile.tools.measure.glyph_dit import IMAGE_SHAPE, load_glyph_dit
from rfc_compile.tools.measure.metrics import psnr

EAGER: dict[str, Any] = {"inner": "eager"}


def full_steps(net: Any) -> list[int]:
    return [d.step for d in rfc_compile.stats(net).decisions if d.full]


class Denoiser(nn.Module):
    """A v-prediction model that is given the noise added, and returns the image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
        self.model = model
        self.register_buffer("logs", ((1 - kept) / kept).sqrt().log())

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        last = (sigma.log()[:, None] > self.logs).sum(1).clamp(1, 999) - 1
        low, high = self.logs[last], self.logs[last + 1]
        timestep = last + ((sigma.log() - low) / (high - low)).clamp(0, 1)
        noise = sigma[:, None, None, None]
        size = (1 + noise**2).sqrt()
        v = self.model(x / size, timestep=timestep, class_labels=label).sample
        image: Tensor = x / size**2 - v * noise / size
        return image


@torch.no_grad()
def by_sigmas(model: Any, steps: int = 28, most: float = 80.0) -> Tensor:
    """Euler's rule from one sigma to the next, as k-diffusion has it."""
    ramp = torch.linspace(1, 0, steps) * (most ** (1 / 7) - 0.01 ** (1 / 7))
    sigmas = [*((ramp + 0.01 ** (1 / 7)) ** 7).tolist(), 0.0]
    x = most * torch.randn(2, *IMAGE_SHAPE, generator=torch.manual_seed(0))
    for now, after in pairwise(sigmas):
        image = model(x, torch.full((2,), now), torch.tensor([3, 8]))
        x = image + (x - image) * (after / now)
    return x


@pytest.mark.parametrize(("options", "least"), [({}, 42.0), ({"target_nfc": 10}, 39.0)])
def test_where_the_timestep_is_the_noise_added(
    options: dict[str, Any], least: float
) -> None:
    """It falls by factors: half of the run is in its last hundredth."""
    plain = by_sigmas(Denoiser(load_glyph_dit()))
    net: Any = torch.compile(
        Denoiser(load_glyph_dit()), backend="rfc", options={**EAGER, **options}
    )
    images = by_sigmas(net)
    assert psnr(images, plain).mean() > least
    assert len(full_steps(net)) <= options.get("target_nfc", 16)


def test_rows_that_are_decided_by_themselves_repay_along_the_noise_level() -> None:
    options: dict[str, Any] = {**EAGER, "per_sample": True}
    net: Any = torch.compile(
        Denoiser(load_glyph_dit()), backend="rfc", dynamic=True, options=options
    )
    images = by_sigmas(net)
    assert psnr(images, by_sigmas(Denoiser(load_glyph_dit()))).mean() > 42
    for one in rfc_compile.stats(net).samples:
        assert sum(made.full for made in one.decisions) <= 16


def test_a_smaller_latent_does_not_follow_from_a_run_that_was_broken_off() -> None:
    """From 80 to 10 any latent of 10 is within an eighth of the move."""
    net: Any = torch.compile(Denoiser(load_glyph_dit()), backend="rfc", options=EAGER)
    alone = by_sigmas(net, most=10.0)
    reset(net)
    with torch.no_grad():
        x = 80 * torch.randn(2, *IMAGE_SHAPE, generator=torch.manual_seed(1))
        net(x, torch.full((2,), 80.0), torch.tensor([3, 8]))
    assert torch.equal(by_sigmas(net, most=10.0), alone)


class Added(Denoiser):
    """It returns the noise that was added."""

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        image = super().forward(x, sigma, label)
        return (x - image) / sigma[:, None, None, None]


@pytest.mark.parametrize("named", [True, False], ids=["named", "by the fit"])
@pytest.mark.parametrize(("options", "least"), [({}, 30.0), ({"target_nfc": 10}, 34.0)])
def test_noise_predicted_at_a_timestep_that_is_the_noise_added_is_no_flow(
    options: dict[str, Any], least: float, named: bool
) -> None:
    """It has the factors of one, but a flow's timesteps end at 1."""
    net: Any = torch.compile(
        Added(load_glyph_dit()), backend="rfc", options={**EAGER, **options}
    )

    def denoiser(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        image: Tensor = x - sigma[:, None, None, None] * net(x, sigma, label)
        return image

    with rfc_compile.trajectory("run", num_steps=28) if named else nullcontext():
        images = by_sigmas(denoiser)
    plain = by_sigmas(Denoiser(load_glyph_dit()))
    assert psnr(images, plain).mean() > least
    assert len(full_steps(net)) <= 10
