"""Noise levels from timesteps: which schedule a run has, and what follows from it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

import rfc_compile
from rfc_compile.estimators.noise_levels import NoiseSchedule, recognise
from rfc_compile.estimators.step_weights import newton_coefficients
from rfc_compile.tools.measure import glyph_dit
from rfc_compile.tools.measure.metrics import psnr

FLOW = NoiseSchedule("flow", 1000.0, rising=False)
DIFFUSION = NoiseSchedule("diffusion", 1000.0, rising=False)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler", "unipc"])
def test_diffusion_levels_are_those_of_the_schedulers(sampler: str) -> None:
    scheduler = glyph_dit.make_scheduler(sampler, 50)
    for t in scheduler.timesteps[:-1]:
        alpha = scheduler.alphas_cumprod[int(t)].item()
        expected = math.sqrt((1 - alpha) / alpha)
        assert DIFFUSION.level(int(t)) == pytest.approx(expected, rel=0.03)


@given(st.floats(0, 1000))
def test_levels_fall_towards_the_image(timestep: float) -> None:
    for schedule in (FLOW, DIFFUSION):
        level, cleaner = schedule.level(timestep), schedule.level(0.9 * timestep)
        assert level is not None
        assert cleaner is not None
        assert 0 <= cleaner <= level < math.inf


def test_rising_timesteps_are_read_from_the_other_end() -> None:
    rising = NoiseSchedule("flow", 1.0, rising=True)
    falling = NoiseSchedule("flow", 1.0, rising=False)
    assert rising.level(0.25) == falling.level(0.75) == pytest.approx(3.0)


@pytest.mark.parametrize("timestep", [-1.0, 1001.0, math.nan])
def test_no_level_outside_of_the_schedule(timestep: float) -> None:
    assert FLOW.level(timestep) is None


@given(
    st.lists(st.floats(0.1, 50), min_size=4, max_size=4, unique=True),
    st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    st.sampled_from([1, 2, 3]),
)
def test_polynomials_in_the_level_are_continued_exactly(
    levels: list[float], coefficients: list[float], width: int
) -> None:
    now, *kept = sorted(levels)
    if min(np.diff(sorted(levels))) < 0.05:
        return  # the weights of levels that all but coincide are large
    polynomial = np.polynomial.Polynomial(coefficients[: min(width, 2) + 1])
    values = polynomial(np.array(kept))
    weights = newton_coefficients(now, kept, width)
    assert weights is not None
    predicted = values[0]
    for weight, change in zip(weights, values[:-1] - values[1:], strict=False):
        predicted += weight * change
    assert predicted == pytest.approx(polynomial(now), rel=1e-6, abs=1e-6)


def test_equal_levels_give_no_weights() -> None:
    assert newton_coefficients(1.0, [2.0, 2.0], 2) is None
    assert newton_coefficients(1.0, [2.0], 2) == [0.0, 0.0]


def _first_move(latents: list[torch.Tensor]) -> float:
    first, second = latents
    return float((second - first).abs().sum() / second.abs().sum())


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler", "unipc"])
def test_diffusion_runs_are_recognised(sampler: str, steps: int) -> None:
    model, seen = glyph_dit.load_glyph_dit(), []

    def denoise(x: torch.Tensor, /, **inputs: Any) -> Any:
        seen.append((x, float(inputs["timestep"][0])))
        return model(x, **inputs)

    class Enough(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Enough

    with pytest.raises(Enough):
        glyph_dit.sample(
            denoise,
            labels=torch.tensor([3]),
            seed=0,
            scheduler=sampler,
            steps=steps,
            progress=stop,
        )
    (x_0, t_0), (x_1, t_1) = seen
    found = recognise(t_0, t_1, _first_move([x_0, x_1]))
    assert found == DIFFUSION


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [20, 50])
def test_flow_runs_are_recognised(steps: int, shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    torch.manual_seed(0)
    noise, image = torch.randn(1, 3, 32, 32), torch.rand(1, 3, 32, 32) * 2 - 1
    t_0, t_1 = (float(t) for t in scheduler.timesteps[:2])
    moved = scheduler.step(noise - image, scheduler.timesteps[0], noise).prev_sample
    assert recognise(t_0, t_1, _first_move([noise, moved])) == FLOW
    small = recognise(t_0 / 1000, t_1 / 1000, _first_move([noise, moved]))
    assert small == NoiseSchedule("flow", 1.0, rising=False)


@pytest.mark.parametrize(
    ("first", "second", "change"), [(5.0, 5.0, 0.1), (900, 800, 0.0), (-1.5, -1.6, 0.1)]
)
def test_nothing_is_guessed(first: float, second: float, change: float) -> None:
    assert recognise(first, second, change) is None


@pytest.mark.slow
def test_images_are_closer_by_the_noise_level_than_by_the_step() -> None:
    labels = torch.arange(2)
    reference = glyph_dit.sample(glyph_dit.load_glyph_dit(), labels=labels, seed=1)
    quality = {}
    full_steps = (0, 9, 18, 27, 35, 41, 46, 49)
    for time in ("noise", "step"):
        torch.compiler.reset()
        options: dict[str, Any] = {"inner": "eager", "time": time, "schedule": "mask"}
        options |= {"full_steps": full_steps, "max_cached_run": None}
        model = torch.compile(
            glyph_dit.load_glyph_dit(), backend="rfc", options=options
        )
        images = glyph_dit.sample(model, labels=labels, seed=1)
        assert rfc_compile.stats(model).nfc == len(full_steps)
        quality[time] = psnr(images, reference).mean().item()
    assert quality["noise"] > quality["step"] + 4
