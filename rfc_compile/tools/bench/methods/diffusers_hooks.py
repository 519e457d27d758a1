"""The caches of diffusers, applied as a user with a model of their own would.

`DiTTransformer2DModel` lacks `CacheMixin`, so the model's class gets it. Where a cache
wants to know the timestep it gets a callback, where it wants sigma the share of noise.
MagCache is calibrated first, on the same run, as its documentation asks for.
"""

import ast
import io
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, redirect_stdout
from functools import cache
from typing import Any, Final

import torch
from diffusers import hooks
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn

from rfc_compile.tools.bench.methods.base import (
    Applied,
    Method,
    Mode,
    calling,
    compiled,
)
from rfc_compile.tools.bench.workloads import SELECTION_SEED, Step, Workload

Configure = Callable[[Workload, Mapping[str, Any], "_Clock"], Any]
"""(workload, setting, clock) -> a config for `enable_cache`."""


class _Clock:
    """Tells the caches the timestep of the running call."""

    def __init__(self) -> None:
        self.timestep = 0.0

    def __call__(self) -> float:
        return self.timestep


def _enable(model: nn.Module, config: Any) -> Any:
    """The model, cached; it must not be compiled yet."""
    if not isinstance(model, CacheMixin):
        model.__class__ = type(type(model).__name__, (CacheMixin, type(model)), {})
    cached: Any = model
    cached.enable_cache(config)
    return cached


def _applying(configure: Configure) -> Any:
    def apply(
        model: nn.Module, workload: Workload, setting: Mapping[str, Any], mode: Mode
    ) -> Applied:
        clock = _Clock()
        cached = _enable(model, configure(workload, setting, clock))

        def context(step: Step) -> AbstractContextManager[None]:
            clock.timestep = step.timestep
            entered: AbstractContextManager[None] = cached.cache_context(
                step.branch,
                step_index=step.index,
                num_inference_steps=step.total,
                timestep=step.timestep,
                sigma=step.sigma,
            )
            return entered

        denoise = calling(compiled(cached, mode), context)
        return Applied(denoise, begin=cached._reset_stateful_cache)

    return apply


def _identifiers(workload: Workload) -> list[str]:
    """TaylorSeerCache's default patterns match no module of these models."""
    blocks, modules = "|".join(workload.blocks), "|".join(workload.modules)
    return [rf"({blocks})\.\d+\.({modules})"]


@cache
def _magnitude_ratios(workload: Workload) -> tuple[float, ...]:
    """What MagCache prints at the end of a run with `calibrate=True`."""
    config = hooks.MagCacheConfig(calibrate=True, num_inference_steps=workload.calls)
    cached = _enable(workload.make(), config)
    with redirect_stdout(io.StringIO()) as printed:
        denoise = calling(cached, lambda step: cached.cache_context(step.branch))
        images = 4 if workload.trained else 1
        workload.draw(denoise, images, workload.steps, SELECTION_SEED)
    text = printed.getvalue()
    return tuple(ast.literal_eval(text[text.rindex("[") :].strip()))


def _latents(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Tensor]:
    """The latents as videos: (C, T, H, W) each, of one frame if they are images."""
    latent: Tensor = args[0] if args else kwargs["hidden_states"]
    if latent.ndim == 3:
        side = math.isqrt(latent.shape[1])
        latent = latent.transpose(1, 2).reshape(len(latent), -1, side, side)
    return list((latent if latent.ndim == 5 else latent.unsqueeze(2)).unbind())


def _apply_faster_cache(
    model: nn.Module, workload: Workload, setting: Mapping[str, Any], mode: Mode
) -> Applied:
    """FasterCache expects the guided half of the batch second; ours comes first."""
    applied = _applying(_fastercache)(model, workload, setting, mode)

    def denoise(step: Step, x: Tensor, /, **inputs: Tensor) -> Tensor:
        swapped = {name: _swap(value) for name, value in inputs.items()}
        return _swap(applied.denoise(step, _swap(x), **swapped))

    if workload.trained:
        return Applied(denoise, begin=applied.begin)
    raise ValueError("FasterCache needs both guidance branches in one batch")


def _swap(value: Tensor) -> Tensor:
    return torch.cat(value.chunk(2)[::-1])


def _fastercache(
    workload: Workload, setting: Mapping[str, Any], clock: _Clock
) -> hooks.FasterCacheConfig:
    return hooks.FasterCacheConfig(
        spatial_attention_block_skip_range=setting["attention"],
        spatial_attention_timestep_skip_range=(-1, setting["below"]),
        unconditional_batch_skip_range=setting["unconditional"],
        unconditional_batch_timestep_skip_range=(-1, setting["below"]),
        current_timestep_callback=clock,
        tensor_format="BCHW",
        _unconditional_conditional_input_kwargs_identifiers=[
            "hidden_states",
            "timestep",
            "class_labels",
        ],
    )


METHODS: Final = (
    Method(
        "FirstBlockCache (diffusers)",
        _applying(
            lambda workload, setting, clock: hooks.FirstBlockCacheConfig(**setting)
        ),
        [
            {"threshold": t}
            for t in (
                *(0.1, 0.2, 0.05, 0.08, 0.13, 0.15, 0.16),
                *(0.17, 0.18, 0.22, 0.25, 0.3, 0.4, 0.6),
            )
        ],
    ),
    Method(
        "TaylorSeerCache (diffusers)",
        _applying(
            lambda workload, setting, clock: hooks.TaylorSeerCacheConfig(
                **setting,
                taylor_factors_dtype=torch.float32,
                cache_identifiers=_identifiers(workload),
            )
        ),
        [
            {"cache_interval": n, "max_order": order, "disable_cache_before_step": k}
            for order in (1, 2)
            for n, k in ((4, 3), (6, 3), (5, 3), (3, 2), (4, 2), (7, 2), (10, 3))
        ],
    ),
    Method(
        "MagCache (diffusers)",
        _applying(
            lambda workload, setting, clock: hooks.MagCacheConfig(
                **setting,
                num_inference_steps=workload.calls,
                mag_ratios=list(_magnitude_ratios(workload)),
            )
        ),
        [
            {"threshold": t, "max_skip_steps": k, "retention_ratio": r}
            for r in (0.06, 0.2)
            for t, k in (
                *((0.2, 3), (0.5, 5), (0.06, 3), (0.12, 4), (0.24, 5), (1.0, 7)),
                (2.0, 10),
            )
        ],
    ),
    Method(
        "SeaCache (diffusers)",
        _applying(
            lambda workload, setting, clock: hooks.SeaCacheConfig(
                **setting, raw_vision_callback=_latents
            )
        ),
        [
            {"threshold": t, "max_consecutive_cached": k, "residual_order": order}
            for order in (1, 0)
            for t, k in (
                *((0.25, 2), (0.3, 3), (0.4, 3), (0.6, 4), (0.8, 5), (1.0, 6)),
                (1.5, 8),
            )
        ],
    ),
    Method(
        "FasterCache (diffusers)",
        _apply_faster_cache,
        [
            {"attention": a, "unconditional": u, "below": below}
            for a, u, below in (
                *((2, 5, 681), (4, 8, 900), (2, 2, 681), (2, 3, 900), (2, 5, 900)),
                *((3, 5, 900), (4, 5, 900), (4, 10, 1000), (6, 8, 1000), (6, 10, 1000)),
                *((8, 10, 1000), (8, 20, 1000), (10, 20, 1000), (12, 40, 1000)),
            )
        ],
    ),
    Method(
        "PyramidAttentionBroadcast (diffusers)",
        _applying(
            lambda workload, setting, clock: hooks.PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=setting["skip"],
                spatial_attention_timestep_skip_range=(
                    setting["above"],
                    setting["below"],
                ),
                current_timestep_callback=clock,
            )
        ),
        [
            {"skip": skip, "above": above, "below": below}
            for skip, above, below in (
                *((2, 100, 800), (4, 0, 980), (2, 100, 850), (3, 100, 800)),
                *((4, 100, 800), (5, 100, 800), (6, 100, 800), (8, 100, 800)),
                *((2, 0, 980), (3, 0, 980), (5, 0, 980), (6, 0, 980), (8, 0, 980)),
                (10, 0, 980),
            )
        ],
    ),
)
