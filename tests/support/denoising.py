"""Denoising runs for the runtime tests: a small trained model and real samplers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rfc_compile.config.run_options import RunOptions
from rfc_compile.runtime.registry import dispatchers_of
from rfc_compile.tools.measure.glyph_dit import (
    EMPTY_CLASS,
    initial_noise,
    load_glyph_dit,
    make_scheduler,
)

Denoise = Callable[..., Any]
LABELS = torch.tensor([3, 8])


def small_glyph(blocks: int = 2, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The bundled model cut to its first blocks: trained weights, quick to compile."""
    model = load_glyph_dit(dtype)
    model.transformer_blocks = model.transformer_blocks[:blocks]
    return model


def compiled(model: nn.Module | None = None, **options: Any) -> Any:
    """A model behind the backend, with the eager inner backend by default."""
    options = {"inner": "eager", "min_coverage": 0.0, **options}
    return torch.compile(model or small_glyph(), backend="rfc", options=options)


def steps_of(
    denoise: Denoise,
    *,
    seed: int = 0,
    labels: Tensor = LABELS,
    scheduler: str = "ddim",
    steps: int = 20,
    first: int = 0,
) -> Iterator[Tensor]:
    """The latents after every step, without guidance; ``first`` skips steps."""
    sampler = make_scheduler(scheduler, steps)
    x = initial_noise(len(labels), seed) * sampler.init_noise_sigma
    for t in sampler.timesteps[first:]:
        with torch.no_grad():
            scaled = sampler.scale_model_input(x, t)
            timestep = t.expand(len(labels))
            v = denoise(scaled, timestep=timestep, class_labels=labels).sample
            x = sampler.step(v, t, x).prev_sample
        yield x


def run(denoise: Denoise, **settings: Any) -> Tensor:
    """The last latent of a whole run."""
    *_, last = steps_of(denoise, **settings)
    return last


def guided_steps(
    denoise: Denoise,
    *,
    seed: int = 0,
    labels: Tensor = LABELS,
    steps: int = 20,
    order: Callable[[int], tuple[str, ...]] = lambda step: ("cond", "empty"),
) -> Iterator[Tensor]:
    """Guidance by separate calls; ``order`` names the calls of every step."""
    sampler = make_scheduler("ddim", steps)
    x = initial_noise(len(labels), seed)
    empty = torch.full_like(labels, EMPTY_CLASS)
    for step, t in enumerate(sampler.timesteps):
        parts: dict[str, Tensor] = {}
        with torch.no_grad():
            for name in order(step):
                given = labels if name == "cond" else empty
                parts[name] = denoise(
                    x, timestep=t.expand(len(labels)), class_labels=given
                ).sample
            first = next(iter(parts.values()))
            cond = parts.get("cond", first)
            v = cond + (cond - parts.get("empty", cond))
            x = sampler.step(v, t, x).prev_sample
        yield x


def full_calls(model: Any) -> int:
    """How often the full graphs of a compiled model have run."""
    return sum(d.graphs["full"].calls for d in dispatchers_of(model))


def compute_all_steps(model: Any) -> None:
    """Let a compiled model compute every step in full, without compiling it again."""
    for dispatcher in dispatchers_of(model):
        dispatcher.decide_by(RunOptions(off=True).applied_to(dispatcher.options))
