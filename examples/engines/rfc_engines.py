"""rfc_compile in engines that compile a transformer themselves and name no backend.

    pip install examples/engines
    RFC_OPTIONS='{"preset": "fast"}' sglang generate --enable-torch-compile ...
    RFC_OPTIONS='{"preset": "fast"}' vllm serve ... --omni

Both engines load the plugin of `pyproject.toml` in each of their processes; it puts
`backend="rfc"` where they compile the transformer, and touches nothing else.
"""

from __future__ import annotations

import json
import os
from typing import Any


def options() -> dict[str, Any]:
    """The options of rfc_compile that the environment asks for."""
    found: dict[str, Any] = json.loads(os.environ.get("RFC_OPTIONS", "{}"))
    return found


def in_vllm_omni() -> None:
    """Have vLLM-Omni compile each transformer as a whole, with rfc."""
    from vllm_omni.diffusion.worker import diffusion_model_runner

    def compile_transformer(runner: Any, name: str) -> None:
        model = getattr(runner.pipeline, name, None)
        if model is not None:
            dynamic = runner.od_config.diffusion_compile_dynamic
            model.compile(backend="rfc", dynamic=dynamic, options=options())

    diffusion_model_runner.DiffusionModelRunner._compile_transformer = (
        compile_transformer
    )


def in_sglang() -> None:
    """Have SGLang-Diffusion compile what it compiles with rfc."""
    from sglang.multimodal_gen.runtime.platforms.plugins import HookRegistry, HookType

    def by_rfc(result: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        kept = {name: result[name] for name in ("fullgraph", "dynamic")}
        return {**kept, "backend": "rfc", "options": options()}

    HookRegistry.register(
        "sglang.multimodal_gen.runtime.utils.torch_compile.build_torch_compile_kwargs",
        by_rfc,
        HookType.AFTER,
    )
