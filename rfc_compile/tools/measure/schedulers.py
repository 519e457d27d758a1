"""The schedulers of diffusers that the trained models are sampled with, by name.

Each name stands for a function of the number of steps.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

MakeScheduler = Callable[[int], SchedulerMixin]
"""(denoising steps, 1..1000) -> a scheduler that is set to so many."""

LINEAR_BETAS: Final = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
}
_SHIFTS: Final = {"": 1.0, "_shift3": 3.0, "_shift7": 7.0}


def diffusion_schedulers(
    prediction: str, variance: str = "fixed_small"
) -> dict[str, MakeScheduler]:
    """For a model of linear betas that predicts `epsilon` or `v_prediction`.

    ``variance`` is what DDPM takes for the noise it adds, `learned_range` if the model
    predicts it.
    """
    betas = {**LINEAR_BETAS, "prediction_type": prediction}
    return {
        "ddim": _plain(DDIMScheduler, **betas, clip_sample=False),
        "ddpm": _plain(
            DDPMScheduler, **betas, clip_sample=False, variance_type=variance
        ),
        "dpmpp_2m": _plain(DPMSolverMultistepScheduler, **betas, solver_order=2),
        "euler": _plain(EulerDiscreteScheduler, **betas),
        "heun": _plain(HeunDiscreteScheduler, **betas),
        "unipc": _plain(UniPCMultistepScheduler, **betas),
    }


def flow_schedulers(tokens: int) -> dict[str, MakeScheduler]:
    """For a rectified flow: Euler, UniPC and DPM++ 2M, each with every shift.

    The tokens of an image decide the shift of `_dynamic`, as FLUX's do.
    """
    # the logarithm of the shift: 0.5 for 256 tokens, 1.15 for 4096
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    shifts = {**_SHIFTS, "_dynamic": float(np.exp(mu))}
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    made: dict[str, MakeScheduler] = {}
    for name, shift in shifts.items():
        made[f"euler{name}"] = _flow_euler(shift=shift)
        made[f"unipc{name}"] = _plain(UniPCMultistepScheduler, **flow, flow_shift=shift)
        made[f"dpmpp_2m{name}"] = _plain(
            DPMSolverMultistepScheduler, **flow, flow_shift=shift, solver_order=2
        )
    made["euler_dynamic"] = _flow_euler(mu, use_dynamic_shifting=True)
    return made


def _plain(kind: type[SchedulerMixin], **config: Any) -> MakeScheduler:
    def make(steps: int) -> SchedulerMixin:
        scheduler = kind(**config)
        scheduler.set_timesteps(steps)
        return scheduler

    return make


def _flow_euler(mu: float | None = None, **config: Any) -> MakeScheduler:
    """From sigma 1 to 1 / steps, shifted, as the pipelines of diffusers set it."""

    def make(steps: int) -> SchedulerMixin:
        scheduler = FlowMatchEulerDiscreteScheduler(**config)
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=mu)
        return scheduler

    return make
