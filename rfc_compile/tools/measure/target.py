"""What is tuned and checked: a model, and how images are drawn with it.

    glyph-dit              the bundled model
    folder/of/a/pipeline   of diffusers; its ``transformer`` is the model
    package.module:factory  a function that returns (model, sample), where
                            sample(model, seed) draws

From Python also a pipeline that is loaded already, or a pair (model, sample).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from rfc_compile.config.fingerprint import (
    Fingerprint,
    make_fingerprint,
    model_fingerprint,
)
from rfc_compile.errors import OptionError, TargetError, one_line
from rfc_compile.io.json_files import JSON, Unexpected, parse_json
from rfc_compile.io.schema import made_of, object_at
from rfc_compile.runtime.run_boundaries import trajectory
from rfc_compile.tools.measure.factory import call_factory, is_factory

Draw = Callable[[nn.Module, int], Tensor]
"""(model, compiled or not; seed) -> images or latents (B, ...), float; images in
[-1, 1]."""

BUNDLED: Final = "glyph-dit"


@dataclass(frozen=True)
class Target:
    """A model and a way to sample it.

    Attributes:
        name: as the user gave it.
        model: the denoiser, not compiled, in evaluation mode.
        draw: draws with a model in its place; the same seed gives the same result.
        sampler: name of the sampler or scheduler, None if not known.
        config: facts of the model, for the fingerprint.
        drawn: what draws the same again, as JSON; None where only Python can tell.
    """

    name: str
    model: nn.Module
    draw: Draw
    sampler: str | None = None
    steps: int | None = None
    config: Mapping[str, JSON] = field(default_factory=dict)
    drawn: Mapping[str, JSON] | None = None

    def fingerprint(self, steps: int | None = None) -> Fingerprint:
        """Of this model and sampler here; ``steps`` where they were counted."""
        return make_fingerprint(
            self.config, self.sampler, self.steps if steps is None else steps
        )


@dataclass(frozen=True)
class Settings:
    """How a target is sampled; None leaves it to the sampler.

    Attributes:
        sampler: scheduler of the bundled model, or class name of a diffusers scheduler.
        images: drawn per seed with the bundled model.
        prompts: of a pipeline; seed i is drawn with prompt i, from the first one again
            when they are used up.
        call: more arguments of a pipeline's call.
        dtype: of a pipeline that is loaded from a folder.
    """

    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None
    images: int = 4
    prompts: tuple[str, ...] = ()
    call: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"


def resolve_target(source: Any, settings: Settings | None = None) -> Target:
    """The target that a name, a pipeline or a pair (model, sample) stands for.

    Raises:
        OptionError: there is no such target, or a setting does not fit it.
        TargetError: what a factory returns is no pair (model, sample).
    """
    settings = settings or Settings()
    if isinstance(source, tuple):
        return _pair("(model, sample)", source, settings)
    if not isinstance(source, str | Path):
        return _pipeline(type(source).__name__, source, settings)
    spec = str(source)
    if spec == BUNDLED:
        return replace(_bundled(settings), drawn=_drawn(spec, settings))
    if is_factory(spec):
        target = _pair(spec, call_factory(spec), settings)
        return replace(target, drawn={"target": spec})
    if not Path(spec).is_dir():
        raise OptionError(
            f"{spec!r} is no target; allowed: {BUNDLED}, the folder of a pipeline of "
            "diffusers, or package.module:factory"
        )
    target = _pipeline(spec, _load_pipeline(spec, settings), settings)
    return replace(target, drawn=_drawn(spec, settings))


def _drawn(spec: str, settings: Settings) -> Mapping[str, JSON] | None:
    """The target's name and the settings that are not the usual ones."""
    usual = asdict(Settings())
    given = {n: x for n, x in asdict(settings).items() if x != usual[n]}
    try:
        text = json.dumps({"target": spec, **given})
        return object_at("$", parse_json(text))
    except (TypeError, ValueError, Unexpected):  # an argument that is none of JSON
        return None


def drawn_again(drawn: Mapping[str, JSON]) -> tuple[str, Settings]:
    """The target and the settings of a tuned file.

    Raises:
        OptionError: the target is code, which no file may name, or a setting is wrong.
    """
    spec = drawn.get("target")
    if not isinstance(spec, str) or is_factory(spec):
        raise OptionError(
            f"the options were tuned on {spec!r}, and a file may not choose what code "
            f"runs: give --target {spec}"
        )
    rest = {name: value for name, value in drawn.items() if name != "target"}
    try:
        return spec, made_of(Settings, "$.drawn", rest)
    except Unexpected as error:
        raise OptionError(str(error)) from error


def _bundled(settings: Settings) -> Target:
    from rfc_compile.tools.measure import glyph_dit

    _refuse(BUNDLED, settings, "prompts", "call")
    sampler, steps = settings.sampler or "ddim", settings.steps or 50
    guidance = 2.0 if settings.guidance is None else settings.guidance
    if sampler not in glyph_dit.SCHEDULERS:
        allowed = ", ".join(glyph_dit.SCHEDULERS)
        raise OptionError(f"sampler={sampler!r} is not allowed; allowed: {allowed}")
    device = glyph_dit.default_device()
    labels = torch.arange(settings.images, device=device) % glyph_dit.NUM_CLASSES
    model = glyph_dit.load_glyph_dit().to(device)
    calls = glyph_dit.count_calls(sampler, steps)

    def draw(model: nn.Module, seed: int) -> Tensor:
        with trajectory(BUNDLED, num_steps=calls):
            return glyph_dit.sample(
                model,
                labels=labels,
                seed=seed * settings.images,  # the noise of image i is that of seed + i
                scheduler=sampler,
                steps=steps,
                guidance=guidance,
            )

    facts = model_fingerprint(model)
    return Target(
        BUNDLED, model, draw, f"{sampler}, guidance {guidance:g}", steps, facts
    )


def _pair(name: str, made: Any, settings: Settings) -> Target:
    _refuse(name, settings, "steps", "sampler", "guidance", "prompts", "call")
    if not (
        isinstance(made, tuple)
        and len(made) == 2
        and isinstance(made[0], nn.Module)
        and callable(made[1])
    ):
        raise TargetError(
            f"{name} must be a pair (model, sample): a module, and a function that "
            "draws with it, sample(model, seed) -> tensor"
        )
    model, sample = made
    return Target(name, model, sample, config=model_fingerprint(model))


def _load_pipeline(folder: str, settings: Settings) -> Any:
    from diffusers import DiffusionPipeline

    from rfc_compile.tools.measure.glyph_dit import default_device

    try:
        pipe = DiffusionPipeline.from_pretrained(
            folder, dtype=getattr(torch, settings.dtype), use_safetensors=True
        )
        pipe = pipe.to(default_device())
    except Exception as error:
        raise OptionError(f"{folder}: {one_line(error)}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _pipeline(name: str, pipe: Any, settings: Settings) -> Target:
    components: Any = getattr(pipe, "components", None)
    model = components.get("transformer") if isinstance(components, Mapping) else None
    if not isinstance(model, nn.Module):
        raise OptionError(
            f"{name} is neither a pipeline of diffusers with a transformer nor a pair "
            "(model, sample)"
        )
    scheduler = pipe.scheduler
    if settings.sampler is not None:
        scheduler = _scheduler(pipe, settings.sampler)
    call = dict(settings.call)
    if settings.steps is not None:
        call["num_inference_steps"] = settings.steps
    if settings.guidance is not None:
        call["guidance_scale"] = settings.guidance
    if components.get("vae") is None:
        call.setdefault("output_type", "latent")
    call.setdefault("output_type", "pt")
    draw = _PipelineDraw(pipe, scheduler, call, settings.prompts)
    sampler = type(scheduler).__name__
    return Target(name, model, draw, sampler, settings.steps, model_fingerprint(model))


@dataclass(frozen=True)
class _PipelineDraw:
    """Calls a pipeline with a model and a scheduler in the place of its own."""

    pipe: Any
    scheduler: Any
    call: Mapping[str, Any]
    prompts: Sequence[str]

    def __call__(self, model: nn.Module, seed: int) -> Tensor:
        call = dict(self.call)
        if self.prompts:
            call["prompt"] = self.prompts[seed % len(self.prompts)]
        generator = torch.Generator().manual_seed(seed)
        own = self.pipe.transformer, self.pipe.scheduler
        self.pipe.transformer, self.pipe.scheduler = model, self.scheduler
        try:
            drawn = self.pipe(generator=generator, return_dict=False, **call)[0]
        finally:
            self.pipe.transformer, self.pipe.scheduler = own
        drawn = torch.as_tensor(drawn)
        return drawn * 2 - 1 if call["output_type"] == "pt" else drawn


def _scheduler(pipe: Any, name: str) -> Any:
    import diffusers

    known = [kind.__name__ for kind in pipe.scheduler.compatibles]
    if name not in known:
        raise OptionError(
            f"sampler={name!r} is not allowed for {type(pipe).__name__}; allowed: "
            f"{', '.join(sorted(known))}"
        )
    kind: Any = getattr(diffusers, name)
    return kind.from_config(pipe.scheduler.config)


def _refuse(name: str, settings: Settings, *names: str) -> None:
    """Settings that this kind of target does not take are not left out silently."""
    for field_name in names:
        if getattr(settings, field_name) != getattr(Settings(), field_name):
            raise OptionError(
                f"{field_name} is not for {name}, which chooses it itself"
            )
