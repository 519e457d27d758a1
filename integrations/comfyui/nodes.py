"""ComfyUI nodes: "RFC compile" caches a model's blocks, "RFC statistics" says how.

    Load Diffusion Model -> RFC compile -> KSampler -> RFC statistics

Two wrappers do it: the one around a run tells rfc_compile where it begins, how many
steps it has and its quality; the one around a call of the model has the compiled
network called in place of the original. Another quality compiles nothing anew. Nothing
of ComfyUI is imported.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch

import rfc_compile

KEY = "rfc_compile"
"""Of the wrappers and of the attachment of a patched model."""

QUALITIES = ("balanced", "quality", "fast", "off")

ONE_CALL_A_STEP = frozenset(
    f"sample_{name}"
    for name in (
        *(
            "ddpm",
            "deis",
            "dpmpp_2m",
            "dpmpp_2m_cfg_pp",
            "dpmpp_2m_sde",
            "dpmpp_3m_sde",
        ),
        *("euler", "euler_ancestral", "euler_ancestral_cfg_pp", "euler_cfg_pp"),
        *("ipndm", "ipndm_v", "lcm", "lms", "res_multistep", "res_multistep_ancestral"),
    )
)
"""Sampler functions of which the number of calls is that of the steps."""

_runs = itertools.count(1)


class RFCCompile:
    """Compiles the diffusion model with rfc_compile."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "model/rfc"
    DESCRIPTION = (
        "Skips the transformer blocks on most steps and predicts their output."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What the node shows."""
        tip = "Full steps wanted in a run; 0: as many as the quality needs."
        full_steps = {"default": 0, "min": 0, "max": 1000, "tooltip": tip}
        return {
            "required": {"model": ("MODEL",), "quality": (list(QUALITIES),)},
            "optional": {
                "full_steps": ("INT", full_steps),
                "inner": (["inductor", "eager"],),
            },
        }

    def patch(
        self, model: Any, quality: str, full_steps: int = 0, inner: str = "inductor"
    ) -> tuple[Any]:
        """The model with its network compiled; the one that is given stays as it is."""
        asked: dict[str, Any] = {"preset": quality}
        if quality == "off":
            asked = {"off": True}
        elif full_steps:
            asked = {"target_nfc": full_steps}
        patched = model.clone()
        network = patched.get_model_object("diffusion_model")
        compiled = torch.compile(network, backend="rfc", options={"inner": inner})
        for kind, wrapper in (
            ("outer_sample", _around_a_run(asked)),
            ("apply_model", _around_a_call(compiled)),
        ):
            patched.remove_wrappers_with_key(kind, KEY)
            patched.add_wrapper_with_key(kind, KEY, wrapper)
        patched.set_attachments(KEY, compiled)
        return (patched,)


def _around_a_run(asked: dict[str, Any]) -> Callable[..., Any]:
    def sample(
        executor: Any,
        noise: Any,
        latent: Any,
        sampler: Any,
        sigmas: Any,
        *rest: Any,
        **named: Any,
    ) -> Any:
        function = getattr(sampler, "sampler_function", None)
        known = getattr(function, "__name__", "") in ONE_CALL_A_STEP
        steps = max(len(sigmas) - 1, 1) if known else None
        run = f"ComfyUI run {next(_runs)}"
        with rfc_compile.trajectory(run, num_steps=steps, **asked):
            return executor(noise, latent, sampler, sigmas, *rest, **named)

    return sample


def _around_a_call(compiled: Any) -> Callable[..., Any]:
    def apply(executor: Any, *arguments: Any, **named: Any) -> Any:
        base = executor.class_obj
        original = base.diffusion_model
        base.diffusion_model = compiled
        try:
            return executor(*arguments, **named)
        finally:
            base.diffusion_model = original

    return apply


class RFCStatistics:
    """Says what was cached in the last run of a model, and why."""

    RETURN_TYPES = ("STRING",)
    FUNCTION = "tell"
    CATEGORY = "model/rfc"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The latent comes from the sampler, so that this node runs after it."""
        return {"required": {"model": ("MODEL",), "latent": ("LATENT",)}}

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        """Never the same: every run has statistics of its own."""
        return float("nan")

    def tell(self, model: Any, latent: Any) -> dict[str, Any]:
        """The text, shown below the node and returned.

        Raises:
            ValueError: the model does not come from "RFC compile".
        """
        compiled = model.get_attachment(KEY)
        if compiled is None:
            raise ValueError('connect the model that "RFC compile" returns')
        text = f"{rfc_compile.explain(compiled)}\n\n{rfc_compile.stats(compiled)}"
        return {"ui": {"text": [text]}, "result": (text,)}


NODE_CLASS_MAPPINGS = {"RFCCompile": RFCCompile, "RFCStatistics": RFCStatistics}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RFCCompile": "RFC compile",
    "RFCStatistics": "RFC statistics",
}
