"""The bundled model, glyph-dit, and how to sample it.

glyph-dit is a small class-conditional `diffusers.DiTTransformer2DModel` that draws
coloured digits, 32x32 RGB in pixel space, with v-prediction. Its card is
`assets/glyph-dit/README.md`. Needs the extra `diffusers` once it is called.

Shape suffixes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel, SchedulerMixin

MODEL_FOLDER: Final = Path(__file__).parents[2] / "assets" / "glyph-dit"
IMAGE_SHAPE: Final = (3, 32, 32)
NUM_CLASSES: Final = 10
EMPTY_CLASS: Final = 10

_NOISE_SCHEDULE: Final = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "v_prediction",
}
_SCHEDULERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "euler": ("EulerDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
SCHEDULERS: Final = tuple(_SCHEDULERS)


class Denoiser(Protocol):
    """A model as the sampler calls it; the result has the prediction in `.sample`."""

    def __call__(self, x: Tensor, /, *, timestep: Tensor, class_labels: Tensor) -> Any:
        """Predicts v of `x` (B, C, H, W) at `timestep` (B,) for `class_labels` (B,)."""


def load_glyph_dit(dtype: torch.dtype = torch.float32) -> DiTTransformer2DModel:
    """Loads the bundled model on the CPU, in evaluation mode and without gradients."""
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel.from_pretrained(
        MODEL_FOLDER, torch_dtype=dtype, use_safetensors=True
    )
    return model.eval().requires_grad_(False)


def default_device() -> torch.device:
    """The accelerator of this machine, or the CPU when it has none."""
    accelerator = torch.accelerator.current_accelerator()
    return torch.device("cpu") if accelerator is None else accelerator


def make_scheduler(name: str, steps: int) -> SchedulerMixin:
    """Makes the noise scheduler `name` of the bundled model, set to `steps` steps.

    Raises:
        ValueError: `name` is not in `SCHEDULERS`, or `steps` is not in 1..1000.
    """
    import diffusers

    if name not in _SCHEDULERS:
        raise ValueError(f"unknown scheduler {name!r}, choose from {SCHEDULERS}")
    if not 1 <= steps <= 1000:
        raise ValueError(f"steps must be in 1..1000, not {steps}")
    kind, own = _SCHEDULERS[name]
    scheduler: SchedulerMixin = getattr(diffusers, kind)(**_NOISE_SCHEDULE, **own)
    scheduler.set_timesteps(steps)
    return scheduler


def initial_noise(count: int, seed: int) -> Tensor:
    """Draws normal noise (count, C, H, W); image i depends on `seed + i` alone."""
    generators = (torch.Generator().manual_seed(seed + i) for i in range(count))
    return torch.stack([torch.randn(IMAGE_SHAPE, generator=g) for g in generators])


def count_calls(scheduler: str, steps: int) -> int:
    """How often a run of so many steps calls the model; `heun` about twice for each.

    Raises:
        ValueError: as `make_scheduler`.
    """
    return len(make_scheduler(scheduler, steps).timesteps)


@torch.no_grad()
def sample(
    denoise: Denoiser,
    *,
    labels: Tensor,
    seed: int,
    scheduler: str = "ddim",
    steps: int = 50,
    guidance: float = 2.0,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draws one image per label.

    Args:
        denoise: the model, compiled or not, on the device of `labels`.
        labels: (B,) int64, the classes to draw, 0..9.
        seed: image i starts from the noise of seed + i, whatever batch it is in.
        scheduler: a name in `SCHEDULERS`.
        steps: denoising steps; `heun` calls the model about twice for each.
        guidance: classifier-free guidance scale; 1 calls the model without guidance,
            on B images instead of 2 B.
        dtype: of the model's input; the sampler itself works in float32.
        progress: called after each model call with (calls done, calls in all).

    Returns:
        Images (B, C, H, W) in [-1, 1], float32.

    Raises:
        ValueError: an unknown scheduler or a bad number of steps.
    """
    noise_scheduler = make_scheduler(scheduler, steps)
    x_BCHW = initial_noise(len(labels), seed).to(labels.device)
    x_BCHW = x_BCHW * noise_scheduler.init_noise_sigma
    guided = guidance != 1.0
    if guided:
        labels = torch.cat([labels, torch.full_like(labels, EMPTY_CLASS)])
    total = len(noise_scheduler.timesteps)
    for done, t in enumerate(noise_scheduler.timesteps, start=1):
        x_in = noise_scheduler.scale_model_input(x_BCHW, t)
        x_in = torch.cat([x_in, x_in]) if guided else x_in
        timestep = t.to(labels.device).expand(len(labels))
        v = denoise(x_in.to(dtype), timestep=timestep, class_labels=labels).sample
        v = v.float()
        if guided:
            v_cond, v_empty = v.chunk(2)
            v = v_empty + guidance * (v_cond - v_empty)
        x_BCHW = noise_scheduler.step(v, t, x_BCHW).prev_sample
        if progress is not None:
            progress(done, total)
    images: Tensor = x_BCHW.clamp(-1.0, 1.0)
    return images
