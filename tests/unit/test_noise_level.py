"""The first step of a sampler tells how much noise a latent holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as d
import pytest
import torch
from torch import Tensor

from rfc_compile.runtime.noise_level import process_of
from rfc_compile.runtime.sampler_fit import (
    Fit,
    fit_of,
    gram_matrix,
    rounding_of,
    step_vectors,
)

Make = Callable[..., Any]

BETAS: dict[str, dict[str, Any]] = {
    "DDPM": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "latent diffusion": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    },
    "improved DDPM": {"beta_schedule": "squaredcos_cap_v2"},
}
DIFFUSION: dict[str, Make] = {
    "ddim": lambda **given: d.DDIMScheduler(clip_sample=False, **given),
    "dpmpp_2m": d.DPMSolverMultistepScheduler,
    "dpmpp_2m, trailing": lambda **given: d.DPMSolverMultistepScheduler(
        timestep_spacing="trailing", **given
    ),
    "unipc": d.UniPCMultistepScheduler,
    "deis": d.DEISMultistepScheduler,
    "euler": d.EulerDiscreteScheduler,
    "heun": d.HeunDiscreteScheduler,
}
FLOW: dict[str, Make] = {
    **{
        f"euler, shift {shift}": lambda shift=shift: d.FlowMatchEulerDiscreteScheduler(
            shift=shift
        )
        for shift in (1.0, 3.0, 7.0)
    },
    "unipc": lambda: d.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
    "dpmpp_2m": lambda: d.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0
    ),
    "heun": d.FlowMatchHeunDiscreteScheduler,
}


def first_step(
    scheduler: Any, steps: int, dtype: torch.dtype = torch.float32
) -> tuple[Fit, float, float]:
    """The fit of the first step on noise, and its timesteps."""
    scheduler.set_timesteps(steps)
    start, *others = map(float, scheduler.timesteps)
    end = next(time for time in others if time != start)
    generator = torch.Generator().manual_seed(0)
    noise, output = torch.randn(2, 1, 4, 32, 32, generator=generator).to(dtype)
    latent = noise * getattr(scheduler, "init_noise_sigma", 1.0)

    def seen(latent: Tensor, time: Tensor) -> Tensor:
        scaled = getattr(scheduler, "scale_model_input", None)
        result: Tensor = latent if scaled is None else scaled(latent, time)
        return result.flatten(1)

    before = seen(latent, scheduler.timesteps[0])
    moved = scheduler.step(output, scheduler.timesteps[0], latent).prev_sample.to(dtype)
    after = seen(moved, scheduler.timesteps[1])
    vectors = step_vectors(after, [before], [[output.flatten(1)]])
    fit = fit_of(gram_matrix(vectors).numpy(), 1, rounding_of(after))
    return fit, start, end


def known(scheduler: Any, steps: int) -> Callable[[float], float]:
    process = process_of(*first_step(scheduler, steps))
    assert process is not None
    assert not process.by_steps
    return process.level


@pytest.mark.parametrize("steps", [10, 20, 28, 50, 100])
@pytest.mark.parametrize("name", DIFFUSION)
@pytest.mark.parametrize("betas", BETAS)
def test_of_v_prediction_it_is_that_of_the_scheduler(
    betas: str, name: str, steps: int
) -> None:
    given = {**BETAS[betas], "num_train_timesteps": 1000}
    level = known(DIFFUSION[name](prediction_type="v_prediction", **given), steps)
    kept = d.DDPMScheduler(**given).alphas_cumprod
    for time in (0, 100, 500, 900, 999):
        image, noise = kept[time] ** 0.5, (1 - kept[time]) ** 0.5
        assert level(time) == pytest.approx(float(noise / (image + noise)), abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("steps", [4, 20, 28, 50, 100])
@pytest.mark.parametrize("name", FLOW)
def test_of_a_flow_it_is_the_timestep(
    name: str, steps: int, dtype: torch.dtype
) -> None:
    process = process_of(*first_step(FLOW[name](), steps, dtype))
    if dtype == torch.float32 or steps <= 4:  # a small move is lost in rounding
        assert process is not None
    if process is not None:
        found = [process.level(time) for time in (1000, 500, 0)]
        assert found == pytest.approx([1, 0.5, 0])


def test_rising_timesteps_are_the_rest() -> None:
    fit, start, end = first_step(FLOW["euler, shift 3.0"](), 20)
    process = process_of(fit, 1 - start / 1000, 1 - end / 1000)
    assert process is not None
    assert [process.level(time) for time in (0, 0.25, 1)] == pytest.approx([1, 0.75, 0])


@pytest.mark.parametrize("steps", [10, 20, 28, 50, 100])
@pytest.mark.parametrize("name", DIFFUSION)
@pytest.mark.parametrize("betas", BETAS)
def test_noise_prediction_is_told_from_the_others(
    betas: str, name: str, steps: int
) -> None:
    """What errs there errs most where there is most noise."""
    scheduler = DIFFUSION[name](prediction_type="epsilon", **BETAS[betas])
    process = process_of(*first_step(scheduler, steps))
    assert process is not None
    assert process.by_steps


def test_what_does_not_follow_or_is_unknown_tells_nothing() -> None:
    """Fresh noise, other processes, other timesteps."""
    for scheduler in (
        d.DDPMScheduler(),
        d.EulerAncestralDiscreteScheduler(prediction_type="v_prediction"),
        d.DDIMScheduler(prediction_type="v_prediction", beta_end=0.01),
    ):
        assert process_of(*first_step(scheduler, 20)) is None
    fit, start, end = first_step(FLOW["euler, shift 1.0"](), 20)
    assert process_of(fit, start, start) is None
    assert process_of(fit, start, end - 40) is None
    assert process_of(fit, start / 500, end / 500) is None
    assert process_of(None, start, end) is None
