"""cache-dit's DBCache, without a calibrator and with TaylorSeer or FoCa.

Applied through a `BlockAdapter`, as its documentation describes for other models.
"""

from collections.abc import Mapping
from typing import Any, Final

from torch import nn

from rfc_compile.tools.bench.methods.base import Applied, Method, Mode, compiled
from rfc_compile.tools.bench.workloads import Workload, plain

_TEXT_FIRST: Final = "Pattern_1"
_PATTERNS: Final = {
    "DiTTransformer2DModel": "Pattern_3",
    "HunyuanVideoTransformer3DModel": "Pattern_0",
}
"""What blocks return, by cache-dit's names; most return text, then image."""


def _apply(
    model: nn.Module, workload: Workload, setting: Mapping[str, Any], mode: Mode
) -> Applied:
    import cache_dit
    from cache_dit.caching.patch_functors import DiTPatchFunctor

    name = type(model).__name__
    pattern = getattr(cache_dit, _PATTERNS.get(name, _TEXT_FIRST))
    adapter = cache_dit.BlockAdapter(
        transformer=model,
        blocks=[model.get_submodule(blocks) for blocks in workload.blocks],
        forward_pattern=[pattern] * len(workload.blocks),
        patch_functor=DiTPatchFunctor() if name.startswith("DiT") else None,
        check_forward_pattern=False,
        has_separate_cfg=workload.separate,
    )

    def arguments() -> dict[str, Any]:
        options = dict(setting)
        order, foca = options.pop("taylorseer_order", None), options.pop("foca", False)
        every = options.pop("every", None)
        if every is not None:
            options |= {
                "steps_computation_mask": _mask(
                    every, setting["max_warmup_steps"], workload.calls
                ),
                "steps_computation_policy": "static",
            }
        calibrator = order and cache_dit.TaylorSeerCalibratorConfig(
            taylorseer_order=order
        )
        if foca:
            calibrator = cache_dit.FoCaCalibratorConfig()
        config = cache_dit.DBCacheConfig(
            **options,
            Bn_compute_blocks=0,
            enable_separate_cfg=workload.separate,
            num_inference_steps=workload.calls,
        )
        return {"cache_config": config, "calibrator_config": calibrator}

    cache_dit.enable_cache(adapter, **arguments())

    def begin() -> None:
        cache_dit.refresh_context(model, **arguments(), verbose=False)

    def close() -> None:
        cache_dit.disable_cache(adapter)

    return Applied(plain(compiled(model, mode)), begin=begin, close=close)


def _mask(every: int, warmup: int, calls: int) -> list[int]:
    """1 for the steps to compute: the first `warmup`, then every `every`-th."""
    return [int(s < warmup or (s - warmup + 1) % every == 0) for s in range(calls)]


def _sweep(calibrator: Mapping[str, Any]) -> list[dict[str, Any]]:
    dynamic: list[dict[str, Any]] = [
        {
            "Fn_compute_blocks": 1,
            "residual_diff_threshold": threshold,
            "max_warmup_steps": warmup,
            "max_continuous_cached_steps": cap,
        }
        for threshold, warmup, cap in (
            *((0.2, 4, 3), (0.4, 4, 5), (0.08, 8, -1), (0.12, 4, 3), (0.3, 4, 4)),
            *((0.6, 3, 6), (1.0, 3, 8)),
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
    Method("DBCache + FoCa (cache-dit)", _apply, _sweep({"foca": True})),
)
