"""One interface to the trained models: load one, sample it by a scheduler's name.

    model = EMOJI_FLUX.load()
    images = EMOJI_FLUX.sample(model, ["google red apple"], seed=0, steps=28)

`MODELS` of `bundled_models.py` lists them. Needs the extra `diffusers`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from diffusers import ModelMixin, SchedulerMixin
from torch import Tensor, nn

from rfc_compile.tools.measure.denoising import (
    Guidance,
    Inputs,
    Progress,
    denoise,
    draw_noise,
    seeded,
)
from rfc_compile.tools.measure.schedulers import MakeScheduler

ASSETS: Final = Path(__file__).parents[2] / "assets"


class Denoiser(Protocol):
    """A model as the sampler calls it; the result has the prediction in `.sample`."""

    def __call__(self, x: Tensor, /, *, timestep: Tensor, **inputs: Tensor) -> Any:
        """Predicts for `x` (B, C, ...) at `timestep` (B,) with its other inputs."""


@dataclass(frozen=True)
class TrainedModel:
    """A small trained model and how it is sampled.

    Attributes:
        latent_shape: of one sample, without the batch.
        schedulers: by name; the first is the default.
        guidance: the scale that draws well.
        encode: conditions -> the model's inputs, and those of as many empty conditions.
        examples: conditions to measure with.
        shared: inputs that are the same for all samples.
        timestep_scale: from a scheduler's timestep to the model's.
        decode: final latents -> images (B, C, H, W) or clips (B, C, T, H, W).
        blocks: names of its lists of transformer blocks.
        modules: names of the attention and MLP modules in a block.
    """

    name: str
    architecture: type[ModelMixin]
    latent_shape: tuple[int, ...]
    schedulers: Mapping[str, MakeScheduler]
    guidance: float
    encode: Callable[[Any], tuple[Inputs, Inputs]]
    examples: Sequence[Any]
    shared: Inputs = field(default_factory=dict)
    timestep_scale: float = 1.0
    decode: Callable[[Tensor], Tensor] = lambda x: x
    blocks: tuple[str, ...] = ("transformer_blocks",)
    modules: tuple[str, ...] = ("attn", "ff", "ff_context", "proj_mlp", "proj_out")

    @property
    def folder(self) -> Path:
        """Where its configuration and, once it is trained, its weights are."""
        return ASSETS / self.name

    def conditions(self, count: int) -> list[Any]:
        """So many of its examples, from the first one again when they are used up."""
        return [self.examples[i % len(self.examples)] for i in range(count)]

    def make(self) -> nn.Module:
        """An untrained one."""
        made: nn.Module = self.architecture.from_config(
            self.architecture.load_config(self.folder)
        )
        return made

    def load(
        self, dtype: torch.dtype = torch.float32, folder: Path | None = None
    ) -> nn.Module:
        """Loads it on the CPU, in evaluation mode and without gradients.

        ``folder`` holds other weights than the bundled ones.

        Raises:
            ValueError: the folder holds a model of another class.
        """
        folder = folder or self.folder
        kind = self.architecture.load_config(folder).get("_class_name")
        if kind != self.architecture.__name__:
            raise ValueError(
                f"{folder} holds a {kind}, not a {self.architecture.__name__}"
            )
        model = self.architecture.from_pretrained(
            folder, torch_dtype=dtype, use_safetensors=True
        )
        ready: nn.Module = model.eval().requires_grad_(False)
        return ready

    def make_scheduler(self, name: str, steps: int) -> SchedulerMixin:
        """The scheduler `name`, set to `steps` steps.

        Raises:
            ValueError: there is no such name, or `steps` is not in 1..1000.
        """
        known = self.schedulers
        if name not in known:
            raise ValueError(f"unknown scheduler {name!r}, choose from {tuple(known)}")
        if not 1 <= steps <= 1000:
            raise ValueError(f"steps must be in 1..1000, not {steps}")
        return known[name](steps)

    def count_calls(self, scheduler: str, steps: int) -> int:
        """Steps at which the model is called; `heun` has about two for each."""
        return len(self.make_scheduler(scheduler, steps).timesteps)

    def sample(
        self,
        model: Denoiser,
        conditions: Any,
        *,
        seed: int,
        scheduler: str | None = None,
        steps: int = 50,
        guidance: float | None = None,
        separate: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Draws one sample per condition.

        Args:
            model: compiled or not.
            conditions: what `encode` takes: class labels (B,) or B prompts.
            seed: sample i depends on seed + i, whatever batch it is in.
            scheduler: a name in `schedulers`, None for the first.
            steps: denoising steps; `heun` calls the model about twice for each.
            guidance: scale, None for the model's own; 1 calls it without guidance.
            separate: whether guidance takes two calls a step instead of twice the
                batch.
            dtype: of the model's inputs; the scheduler itself works in float32.
            device: of the model, None for the CPU.
            progress: called after each step with (steps done, steps in all).

        Returns:
            What `decode` makes of the final latents, in [-1, 1], float32.

        Raises:
            ValueError: an unknown scheduler or word, or a bad number of steps.
        """
        if scheduler is None:
            scheduler = next(iter(self.schedulers))
        made = self.make_scheduler(scheduler, steps)
        inputs, empty = self.encode(conditions)
        inputs, empty, shared = (
            _placed(given, dtype, device) for given in (inputs, empty, self.shared)
        )

        def predict(x: Tensor, t: Tensor, given: Inputs) -> Tensor:
            if self.timestep_scale != 1.0:
                t = t * self.timestep_scale
            out = model(x.to(dtype), timestep=t, **given, **shared).sample
            prediction: Tensor = out.float()
            return prediction

        scale = self.guidance if guidance is None else guidance
        generators = seeded(len(conditions), seed)
        latents = denoise(
            predict,
            draw_noise(generators, self.latent_shape).to(device),
            made,
            inputs=inputs,
            empty=empty,
            guidance=Guidance(scale, separate),
            generators=generators,
            progress=progress,
        )
        return self.decode(latents).clamp(-1.0, 1.0)


def _placed(
    inputs: Inputs, dtype: torch.dtype, device: torch.device | None
) -> dict[str, Tensor]:
    """On the device, and what is floating in the dtype."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
