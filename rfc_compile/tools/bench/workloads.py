"""What is run: a model with a sampler. All models are called the same way.

`WORKLOADS` lists them. A denoiser is called once a step with a `Step`, the latent and
the model's other inputs by name; both guidance branches are in one batch.

Shape suffixes: B images, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Final, Protocol

import torch
from diffusers import (
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
)
from torch import Tensor, nn

from rfc_compile.tools.measure import glyph_dit
from rfc_compile.tools.measure.trained_model import TrainedModel

STEPS: Final = 50
"""Denoising steps of a run."""

SELECTION_SEED: Final = 1000
REPORT_SEED: Final = 2000
"""Image i starts from the noise of seed + i: settings are chosen on other images than
those that are reported."""

_TRAINING_STEPS: Final = 1000
_TEXT_TOKENS, _TEXT_WIDTH, _POOLED_WIDTH = 77, 256, 128


@dataclass(frozen=True)
class Step:
    """Where a call stands in its run.

    Attributes:
        timestep: 0 to 1000.
        sigma: share of noise in the latent, 0 to 1.
        branch: of guidance, `cond` or `uncond`; `both` if they are in one batch.
    """

    index: int
    total: int
    timestep: float
    sigma: float
    branch: str = "both"


class Denoise(Protocol):
    """One call of a model, cached or not; returns the prediction (B, C, H, W)."""

    def __call__(self, step: Step, x: Tensor, /, **inputs: Tensor) -> Tensor:
        """Predicts for the latent `x` (B, C, H, W) and the model's other inputs."""


@dataclass(frozen=True)
class Workload:
    """A model and how it is sampled.

    Attributes:
        draw: (denoise, images, steps, seed) -> final latents (images, C, H, W).
        trained: whether the images mean anything.
        modules: names of the cacheable modules inside a block.
        blocks: names of the lists of transformer blocks.
        steps: of the sampler in an ordinary run.
        calls: of the model in such a run, for caches that need the number in advance.
        separate: whether guidance takes two calls a step.
    """

    name: str
    make: Callable[[], nn.Module]
    draw: Callable[[Denoise, int, int, int], Tensor]
    trained: bool
    modules: tuple[str, ...]
    blocks: tuple[str, ...] = ("transformer_blocks",)
    steps: int = STEPS
    calls: int = STEPS
    separate: bool = False

    def blocks_of(self, model: nn.Module) -> list[nn.Module]:
        """The transformer blocks of its model, in order."""
        lists = map(model.get_submodule, self.blocks)
        return [block for blocks in lists for block in blocks.children()]


def plain(model: nn.Module) -> Denoise:
    """The model itself, compiled or not."""

    def denoise(step: Step, x: Tensor, /, **inputs: Tensor) -> Tensor:
        prediction: Tensor = model(x, **inputs).sample
        return prediction

    return denoise


def trained_workload(
    trained: TrainedModel,
    sampler: str,
    guidance: float,
    *,
    steps: int = STEPS,
    separate: bool = False,
    make: Callable[[], nn.Module] | None = None,
) -> Workload:
    """A trained model, sampled in one way; ``make`` if it is not taken as it comes."""
    separate = separate and guidance != 1.0

    def draw(denoise: Denoise, images: int, steps: int, seed: int) -> Tensor:
        return trained.sample(
            _Counted(denoise, _steps_of(trained, sampler, steps), separate),
            trained.conditions(images),
            seed=seed,
            scheduler=sampler,
            steps=steps,
            guidance=guidance,
            separate=separate,
            device=glyph_dit.default_device(),
        )

    return Workload(
        trained.name,
        make or (lambda: _ready(trained.load())),
        draw,
        trained=True,
        modules=trained.modules,
        blocks=trained.blocks,
        steps=steps,
        calls=trained.count_calls(sampler, steps),
        separate=separate,
    )


def _steps_of(trained: TrainedModel, sampler: str, steps: int) -> list[Step]:
    scheduler = trained.make_scheduler(sampler, steps)
    times = [float(t) for t in scheduler.timesteps]
    flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    if flow or scheduler.config.get("use_flow_sigmas"):
        sigmas = [t / _TRAINING_STEPS for t in times]
    else:
        kept = [float(scheduler.alphas_cumprod[int(t)]) for t in times]
        sigmas = [(1 - a) ** 0.5 / (a**0.5 + (1 - a) ** 0.5) for a in kept]
    return [
        Step(index, len(times), t, sigma)
        for index, (t, sigma) in enumerate(zip(times, sigmas, strict=True))
    ]


@dataclass
class _Counted:
    """A denoiser as a trained model's sampler calls it; counts the calls."""

    denoise: Denoise
    steps: Sequence[Step]
    separate: bool
    calls: int = 0

    def __call__(self, x: Tensor, /, **inputs: Tensor) -> Any:
        step = self.steps[self.calls // 2 if self.separate else self.calls]
        if self.separate:
            step = replace(step, branch=("cond", "uncond")[self.calls % 2])
        self.calls += 1
        return SimpleNamespace(sample=self.denoise(step, x, **inputs))


def _flow(
    denoise: Denoise, x_BCHW: Tensor, steps: int, inputs: Mapping[str, Tensor]
) -> Tensor:
    """Euler steps from noise along the predicted velocity, at evenly spaced times."""
    for index in range(steps):
        sigma = 1 - index / steps
        step = Step(index, steps, sigma * _TRAINING_STEPS, sigma)
        t = torch.full((len(x_BCHW),), int(step.timestep), device=x_BCHW.device)
        x_BCHW = x_BCHW - denoise(step, x_BCHW, timestep=t, **inputs) / steps
    return x_BCHW


def _noise(seed: int, *shape: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(glyph_dit.default_device())


def _ready(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False).to(glyph_dit.default_device())


def random_dit(heads: int, head_width: int, layers: int, side: int = 32) -> nn.Module:
    """A class-conditional DiT with random weights, on latents (B, 4, side, side)."""
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head_width,
        num_layers=layers,
        sample_size=side,
        patch_size=2,
        in_channels=4,
        norm_type="ada_norm_zero",
        num_embeds_ada_norm=1000,
    )
    return _ready(model)


def _dit_inputs(images: int, seed: int) -> dict[str, Tensor]:
    labels = torch.arange(images, device=glyph_dit.default_device())
    return {"class_labels": labels}


def _make_mm_dit() -> nn.Module:
    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=12,
        attention_head_dim=64,
        num_attention_heads=8,
        joint_attention_dim=_TEXT_WIDTH,
        caption_projection_dim=512,
        pooled_projection_dim=_POOLED_WIDTH,
        pos_embed_max_size=32,
    )
    return _ready(model)


def _mm_dit_inputs(images: int, seed: int) -> dict[str, Tensor]:
    return {
        "encoder_hidden_states": _noise(seed, images, _TEXT_TOKENS, _TEXT_WIDTH),
        "pooled_projections": _noise(seed, images, _POOLED_WIDTH),
    }


def _random_workload(
    name: str,
    make: Callable[[], nn.Module],
    inputs: Callable[[int, int], dict[str, Tensor]],
    modules: tuple[str, ...],
) -> Workload:
    """A model with random weights on latents (B, 4, 32, 32); inputs(images, seed)."""

    @torch.no_grad()
    def draw(denoise: Denoise, images: int, steps: int, seed: int) -> Tensor:
        noise = _noise(seed, images, 4, 32, 32)
        return _flow(denoise, noise, steps, inputs(images, seed))

    return Workload(name, make, draw, trained=False, modules=modules)


def _make_dit_b() -> nn.Module:
    return random_dit(heads=12, head_width=64, layers=12)


GLYPH: Final = trained_workload(glyph_dit.GLYPH_DIT, "ddim", guidance=2.0)
DIT_B: Final = _random_workload("DiT-B", _make_dit_b, _dit_inputs, ("attn1", "ff"))
MM_DIT: Final = _random_workload(
    "MM-DiT", _make_mm_dit, _mm_dit_inputs, ("attn", "ff", "ff_context")
)

WORKLOADS: Final = {item.name: item for item in (GLYPH, DIT_B, MM_DIT)}
