"""The denoising loop of the trained models: a scheduler, and guidance in two ways."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from torch import Tensor

Inputs = Mapping[str, Tensor]
"""What a model gets beside latent and timestep, by name; one row a sample."""

Predict = Callable[[Tensor, Tensor, Inputs], Tensor]
"""(latent (B, C, ...), timestep (B,), inputs) -> prediction, float32: (B, C, ...), or
(B, 2 C, ...) with what the model says of the variance."""

Progress = Callable[[int, int], None]
"""Called after each step with (steps done, steps in all)."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance.

    Attributes:
        scale: 1 is no guidance, and no computation for it.
        separate: whether the empty condition has a call of its own, after the other;
            else both are in one batch, of 2 B samples.
    """

    scale: float
    separate: bool = False


def seeded(count: int, seed: int) -> list[torch.Generator]:
    """A generator for each sample; that of sample i depends on `seed + i` alone."""
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def draw_noise(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Normal noise (B, *shape) on the CPU."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators])


@torch.no_grad()
def denoise(
    predict: Predict,
    x: Tensor,
    scheduler: SchedulerMixin,
    *,
    inputs: Inputs,
    empty: Inputs,
    guidance: Guidance,
    generators: Sequence[torch.Generator],
    progress: Progress | None = None,
) -> Tensor:
    """Takes noise (B, C, ...) to samples, float32, as the last step leaves them.

    Args:
        predict: calls the model.
        x: normal noise, on the device of the model.
        scheduler: set to its steps.
        inputs: of the condition.
        empty: the same inputs of the empty condition.
        guidance: scale, and whether in separate calls.
        generators: one a sample, for schedulers that add noise.
        progress: see `Progress`.
    """
    scaled = not isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    adds_noise = isinstance(scheduler, DDPMScheduler)
    options: dict[str, Any] = {"generator": list(generators)} if adds_noise else {}
    learned = adds_noise and scheduler.config.variance_type == "learned_range"
    if scaled:
        x = x * scheduler.init_noise_sigma
    total = len(scheduler.timesteps)
    for done, t in enumerate(scheduler.timesteps, start=1):
        x_in = scheduler.scale_model_input(x, t) if scaled else x
        prediction = _guided(predict, x_in, t.to(x.device), inputs, empty, guidance)
        if not learned:
            prediction = prediction[:, : x.shape[1]]
        x = scheduler.step(prediction, t, x, **options).prev_sample
        if progress is not None:
            progress(done, total)
    return x


def _guided(
    predict: Predict,
    x: Tensor,
    t: Tensor,
    inputs: Inputs,
    empty: Inputs,
    guidance: Guidance,
) -> Tensor:
    """One prediction; guidance leaves the variance as the condition has it."""
    rows = len(x)
    if guidance.scale == 1.0:
        return predict(x, t.expand(rows), inputs)
    if guidance.separate:
        wanted, unwanted = (
            predict(x, t.expand(rows), given) for given in (inputs, empty)
        )
    else:
        both = {name: torch.cat([inputs[name], empty[name]]) for name in inputs}
        joined = predict(torch.cat([x, x]), t.expand(2 * rows), both)
        wanted, unwanted = joined.chunk(2)
    mean, other = wanted[:, : x.shape[1]], unwanted[:, : x.shape[1]]
    return torch.cat(
        [other + guidance.scale * (mean - other), wanted[:, x.shape[1] :]], dim=1
    )
