"""The bundled model, glyph-dit, and how to sample it.

glyph-dit is a small class-conditional `diffusers.DiTTransformer2DModel` that draws
coloured digits, 32x32 RGB in pixel space, with v-prediction. Its card is
`assets/glyph-dit/README.md`. Needs the extra `diffusers`.

Shape suffixes: B images, C channels, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, cast

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor

from rfc_compile.tools.measure.denoising import Inputs, Progress, draw_noise, seeded
from rfc_compile.tools.measure.schedulers import diffusion_schedulers
from rfc_compile.tools.measure.trained_model import Denoiser as Denoiser
from rfc_compile.tools.measure.trained_model import TrainedModel

IMAGE_SHAPE: Final = (3, 32, 32)
NUM_CLASSES: Final = 10
EMPTY_CLASS: Final = 10


def class_inputs(labels: Tensor | Sequence[int]) -> tuple[Inputs, Inputs]:
    """The inputs of class labels (B,), and of as many empty classes."""
    labels = torch.as_tensor(labels)
    empty = torch.full_like(labels, EMPTY_CLASS)
    return {"class_labels": labels}, {"class_labels": empty}


GLYPH_DIT: Final = TrainedModel(
    name="glyph-dit",
    architecture=DiTTransformer2DModel,
    latent_shape=IMAGE_SHAPE,
    schedulers=diffusion_schedulers("v_prediction"),
    guidance=2.0,
    encode=class_inputs,
    examples=tuple(range(NUM_CLASSES)),
    modules=("attn1", "ff"),
)
GLYPH_DIT_EPSILON: Final = replace(
    GLYPH_DIT,
    name="glyph-dit-epsilon",
    schedulers=diffusion_schedulers("epsilon", variance="learned_range"),
)
"""The same network, trained on the noise with learned variance: DiT's own form, of
twice the output channels. Another seed and other images; its card is in its folder."""

MODEL_FOLDER: Final = GLYPH_DIT.folder
make_scheduler: Final = GLYPH_DIT.make_scheduler
count_calls: Final = GLYPH_DIT.count_calls
SCHEDULERS: Final = tuple(name for name in GLYPH_DIT.schedulers if name != "ddpm")
"""Those that add no noise on the way."""


def load_glyph_dit(dtype: torch.dtype = torch.float32) -> DiTTransformer2DModel:
    """Loads the bundled model on the CPU, in evaluation mode and without gradients."""
    return cast(DiTTransformer2DModel, GLYPH_DIT.load(dtype))


def default_device() -> torch.device:
    """The accelerator of this machine, or the CPU when it has none."""
    accelerator = torch.accelerator.current_accelerator()
    return torch.device("cpu") if accelerator is None else accelerator


def initial_noise(count: int, seed: int) -> Tensor:
    """Draws normal noise (count, C, H, W); image i depends on `seed + i` alone."""
    return draw_noise(seeded(count, seed), IMAGE_SHAPE)


def sample(
    denoise: Denoiser,
    *,
    labels: Tensor,
    seed: int,
    scheduler: str = "ddim",
    steps: int = 50,
    guidance: float = 2.0,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] of `labels` (B,) int64, the classes 0..9.

    `denoise` is the model, compiled or not, on the device of `labels`; the rest is as
    in `TrainedModel.sample`.

    Raises:
        ValueError: an unknown scheduler or a bad number of steps.
    """
    return GLYPH_DIT.sample(
        denoise,
        labels,
        seed=seed,
        scheduler=scheduler,
        steps=steps,
        guidance=guidance,
        dtype=dtype,
        device=labels.device,
        progress=progress,
    )
