"""cache-dit's DBCache, with and without its TaylorSeer calibrator.

Applied through a `BlockAdapter`, as its documentation describes for other models.
"""

from collections.abc import Mapping
from typing import Any, Final

from torch import nn

from rfc_compile.tools.bench.methods.base import Applied, Method, Mode, compiled
from rfc_compile.tools.bench.workloads import STEPS, Workload, plain


def _apply(
    model: nn.Module, workload: Workload, setting: Mapping[str, Any], mode: Mode
) -> Applied:
    import cache_dit
    from cache_dit.caching.patch_functors import DiTPatchFunctor

    joint = "ff_context" in workload.modules
    adapter = cache_dit.BlockAdapter(
        transformer=model,
        blocks=getattr(model, workload.blocks),
        forward_pattern=cache_dit.Pattern_1 if joint else cache_dit.Pattern_3,
        patch_functor=None if joint else DiTPatchFunctor(),
        check_forward_pattern=False,
        has_separate_cfg=False,
    )

    def arguments() -> dict[str, Any]:
        options = dict(setting)
        order = options.pop("taylorseer_order", None)
        every = options.pop("every", None)
        if every is not None:
            options |= {
                "steps_computation_mask": _mask(every, setting["max_warmup_steps"]),
                "steps_computation_policy": "static",
            }
        calibrator = order and cache_dit.TaylorSeerCalibratorConfig(
            taylorseer_order=order
        )
        config = cache_dit.DBCacheConfig(
            **options,
            Bn_compute_blocks=0,
            enable_separate_cfg=False,
            num_inference_steps=STEPS,
        )
        return {"cache_config": config, "calibrator_config": calibrator}

    cache_dit.enable_cache(adapter, **arguments())

    def begin() -> None:
        cache_dit.refresh_context(model, **arguments(), verbose=False)

    def close() -> None:
        cache_dit.disable_cache(adapter)

    return Applied(plain(compiled(model, mode)), begin=begin, close=close)


def _mask(every: int, warmup: int) -> list[int]:
    """1 for the steps to compute: the first `warmup`, then every `every`-th."""
    return [int(s < warmup or (s - warmup + 1) % every == 0) for s in range(STEPS)]


def _sweep(calibrator: Mapping[str, int]) -> list[dict[str, Any]]:
    dynamic: list[dict[str, Any]] = [
        {
            "Fn_compute_blocks": 1,
            "residual_diff_threshold": threshold,
            "max_warmup_steps": warmup,
            "max_continuous_cached_steps": cap,
        }
        for threshold, warmup, cap in (
            (0.2, 4, 3),
            (0.4, 4, 5),
            (0.08, 8, -1),
            (0.12, 4, 3),
            (0.3, 4, 4),
            (0.6, 3, 6),
            (1.0, 3, 8),
        )
    ]
    static: list[dict[str, Any]] = [
        {"Fn_compute_blocks": 1, "max_warmup_steps": 3, "every": n}
        for n in (3, 4, 5, 6, 7, 8, 12)
    ]
    return [{**setting, **calibrator} for setting in (*dynamic, *static)]


METHODS: Final = (
    Method("DBCache (cache-dit)", _apply, _sweep({})),
    Method(
        "DBCache + TaylorSeer (cache-dit)",
        _apply,
        _sweep({"taylorseer_order": 1}),
    ),
)
