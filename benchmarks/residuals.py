"""How well a sampler's next latent follows from what the model returned.

Per model and sampler of diffusers: the least-squares residual, relative to the move of
the latent, with one and with two steps of history, and that of another image's latent
in its place. The runtime continues a run below `sampler_fit.EXPLAINED`.
"""

import statistics
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from torch import Tensor

from benchmarks.report import Grid, publish
from rfc_compile.runtime.sampler_fit import (
    EXPLAINED,
    Fit,
    fit_of,
    gram_matrix,
    rounding_of,
    step_vectors,
)
from rfc_compile.tools.measure.bundled_models import MODELS
from rfc_compile.tools.measure.schedulers import LINEAR_BETAS
from rfc_compile.tools.measure.trained_model import TrainedModel

STEPS: Final = 50
IMAGES: Final = 2
SEED: Final = 0

DTYPES: Final = (torch.float32, torch.bfloat16)

_DPM: Final = DPMSolverMultistepScheduler

Make = Callable[[int, str], SchedulerMixin]
"""(steps, what the model predicts) -> a scheduler that is set to so many steps."""


def _made(kind: Any, **config: Any) -> Make:
    def make(steps: int, prediction: str) -> SchedulerMixin:
        scheduler = kind(**LINEAR_BETAS, prediction_type=prediction, **config)
        scheduler.set_timesteps(steps)
        return scheduler

    return make


def _flow(mu: float | None = None, **config: Any) -> Make:
    def make(steps: int, prediction: str) -> SchedulerMixin:
        del prediction
        scheduler = FlowMatchEulerDiscreteScheduler(**config)
        scheduler.set_timesteps(steps, mu=mu)
        return scheduler

    return make


DIFFUSION: Final[dict[str, Make]] = {
    "ddim": _made(DDIMScheduler, clip_sample=False),
    "euler": _made(EulerDiscreteScheduler),
    "euler_karras": _made(EulerDiscreteScheduler, use_karras_sigmas=True),
    "dpmpp_2m": _made(_DPM, solver_order=2),
    "dpmpp_3m": _made(_DPM, solver_order=3),
    "deis": _made(DEISMultistepScheduler),
    "unipc": _made(UniPCMultistepScheduler),
    "heun": _made(HeunDiscreteScheduler),
    "pndm": _made(PNDMScheduler, skip_prk_steps=True),
    "euler_ancestral": _made(EulerAncestralDiscreteScheduler),
    "sde_dpmpp_2m": _made(_DPM, solver_order=2, algorithm_type="sde-dpmsolver++"),
    "ddpm": _made(DDPMScheduler, clip_sample=False),
}
FLOW: Final[dict[str, Make]] = {
    "flow_euler": _flow(shift=1.0),
    "flow_euler_shift3": _flow(shift=3.0),
    "flow_euler_dynamic": _flow(mu=0.8, use_dynamic_shifting=True),
}
STOCHASTIC: Final = ("euler_ancestral", "sde_dpmpp_2m", "ddpm")


@dataclass
class Recorded:
    """What the calls of a run gave the model and got from it, (B, N) each."""

    latents: list[Tensor] = field(default_factory=list)
    outputs: list[list[Tensor]] = field(default_factory=list)
    """Of every step: with the condition, and without."""


def record(
    model: TrainedModel, make: Make, prediction: str, dtype: torch.dtype
) -> Recorded:
    """One guided run of the uncached model, in calls of their own for guidance."""
    loaded, found = model.load(dtype), Recorded()
    torch.manual_seed(SEED)  # of the samplers that are given no generator

    def denoise(x: Tensor, /, **inputs: Tensor) -> Any:
        output = loaded(x, **inputs)
        if not found.outputs or len(found.outputs[-1]) == 2:
            found.latents.append(x.flatten(1))
            found.outputs.append([])
        found.outputs[-1].append(output.sample[:, : x.shape[1]].flatten(1))
        return output

    sampled = replace(model, schedulers={"it": lambda steps: make(steps, prediction)})
    sampled.sample(
        denoise,
        model.conditions(IMAGES),
        seed=SEED,
        steps=STEPS,
        separate=True,
        dtype=dtype,
    )
    return found


def fit_step(own: Recorded, step: int, history: int, now: Tensor) -> Fit:
    """How a latent follows from at most ``history`` steps before this one."""
    back = range(step - 1, max(step - 1 - history, -1), -1)
    latents = [own.latents[i] for i in back]
    vectors = step_vectors(now, latents, [own.outputs[i] for i in back])
    rounding = rounding_of(now)
    return fit_of(gram_matrix(vectors).numpy(), len(vectors) - 2, rounding)


def residuals(own: Recorded, history: int, *, swapped: bool = False) -> list[float]:
    """Of every step, of the worst image; ``swapped``: of the other image's latent."""
    found = []
    for step, latent in enumerate(own.latents[1:], start=1):
        fit = fit_step(own, step, history, latent.flip(0) if swapped else latent)
        found += [fit.residual] if fit.moved else []
    return found


def samplers_of(model: TrainedModel) -> tuple[dict[str, Make], str]:
    """The samplers of a model's family, and what it predicts."""
    config = model.make_scheduler(next(iter(model.schedulers)), STEPS).config
    prediction = config.get("prediction_type")
    return (FLOW, "flow") if prediction is None else (DIFFUSION, prediction)


def row(model: TrainedModel, sampler: str, dtype: torch.dtype) -> dict[str, Any]:
    """The residuals of a model with a sampler."""
    samplers, prediction = samplers_of(model)
    own = record(model, samplers[sampler], prediction, dtype)
    one, two = residuals(own, 1), residuals(own, 2)
    return {
        "model": model.name,
        "sampler": sampler,
        "dtype": str(dtype).removeprefix("torch."),
        "one_step": [statistics.median(one), max(one)],
        "two_steps": [statistics.median(two), max(two)],
        "other_image": min(residuals(own, 2, swapped=True)),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """Median and largest residuals, the smallest one of another image."""
    header = ["model", "sampler", "latents", "one step of history", "two steps"]
    shown = [
        [
            line["model"],
            line["sampler"],
            line["dtype"],
            *(
                "{:.4f} ({:.4f})".format(*line[key])
                for key in ("one_step", "two_steps")
            ),
            f"{line['other_image']:.2f}",
        ]
        for line in rows
    ]
    return Grid("Residuals: median (largest)", [*header, "another image"], shown)


def run(args: Namespace) -> None:
    """Of the first model alone in float32, or of all."""
    models = list(MODELS.values())[: 1 if args.quick else None]
    dtypes = DTYPES[: 1 if args.quick else None]
    cells = [(m, s, d) for m in models for s in samplers_of(m)[0] for d in dtypes]
    rows = [row(*cell) for cell in cells]
    about = f"A call continues a run below {EXPLAINED}; {STEPS} steps, guidance."
    publish("residuals", "Residuals", {"rows": rows}, [table(rows)], [about])
