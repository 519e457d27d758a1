"""The models of `python -m benchmarks accelerator`: configs, shapes, samplers.

Weights are random, in bfloat16; inputs are those of `rfc-compile inspect`. Runs are
Euler steps from noise along the output.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import torch
from diffusers import (
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    HunyuanVideoTransformer3DModel,
    QwenImageTransformer2DModel,
    WanTransformer3DModel,
)
from torch import Tensor, nn

from rfc_compile.tools.bench.workloads import Denoise, Step, Workload
from rfc_compile.tools.inspection.model_inputs import make_inputs
from rfc_compile.tools.inspection.weightless import build_without_weights, default_dtype

_DTYPE: Final = torch.bfloat16
_TINY: Final = {"height": 8, "width": 8, "frames": 1, "text_tokens": 8}
_TINY_HEADS: Final = {"num_attention_heads": 2, "attention_head_dim": 16}
_DOUBLE: Final = ("transformer_blocks", "single_transformer_blocks")
_JOINT_MODULES: Final = ("attn", "ff", "ff_context", "proj_mlp")


@dataclass(frozen=True)
class Model:
    """A model, how it is called, and a tiny one like it.

    Attributes:
        config: that of the published model, where it is not the class's default.
        small: what the tiny model has instead.
        modules: names of the modules inside a block that caches of modules take.
        sizes: of the inputs, where the config does not tell them.
        timesteps: the first of a run; the last one is near 0.
        blocks: names of the lists of blocks.
    """

    name: str
    build: Callable[..., nn.Module]
    config: Mapping[str, Any]
    small: Mapping[str, Any]
    modules: tuple[str, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    timesteps: float = 1000.0
    blocks: tuple[str, ...] = ("transformer_blocks",)
    steps: int = 50

    def tiny(self) -> "Model":
        """One that a CPU draws with in a second."""
        config = {**self.config, **self.small}
        return replace(self, config=config, sizes=_TINY, steps=10)

    def workload(self, device: str) -> Workload:
        """As the methods of the bench take it."""
        model = build_without_weights(lambda: self.build(**self.config), _DTYPE)
        inputs = make_inputs(model, self.sizes, _DTYPE)
        return Workload(
            self.name,
            partial(self._make, device),
            partial(self._draw, device, inputs),
            trained=False,
            modules=self.modules,
            blocks=self.blocks,
            steps=self.steps,
            calls=self.steps,
        )

    def _make(self, device: str) -> nn.Module:
        torch.manual_seed(0)
        # billions of weights: nowhere else, and once
        with torch.device(device), default_dtype(_DTYPE):
            model = self.build(**self.config)
        return model.eval().requires_grad_(False)

    @torch.no_grad()
    def _draw(
        self,
        device: str,
        inputs: Mapping[str, Any],
        denoise: Denoise,
        images: int,
        steps: int,
        seed: int,
    ) -> Tensor:
        fixed = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
            if name not in ("hidden_states", "timestep")
        }
        generator = torch.Generator().manual_seed(seed)
        latent = torch.randn(inputs["hidden_states"].shape, generator=generator)
        x = latent.to(device, _DTYPE)
        for index in range(steps):
            sigma = 1 - index / steps
            step = Step(index, steps, 1000 * sigma, sigma)
            t = torch.full((images,), self.timesteps * sigma, device=device)
            prediction = denoise(step, x, timestep=t, **fixed)
            x = x - prediction.narrow(1, 0, x.shape[1]) / steps
        return x


def _dit(pixels: int) -> Model:
    return Model(
        f"DiT-XL/2, {pixels} px",
        DiTTransformer2DModel,
        {
            "num_attention_heads": 16,
            "attention_head_dim": 72,
            "num_layers": 28,
            "sample_size": pixels // 8,
            "in_channels": 4,
            "norm_type": "ada_norm_zero",
            "num_embeds_ada_norm": 1000,
        },
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "sample_size": 8,
        },
        ("attn1", "ff"),
    )


def _flux(steps: int) -> Model:
    small = {"num_layers": 2, "num_single_layers": 2, "in_channels": 4}
    small |= {"joint_attention_dim": 32, "pooled_projection_dim": 32}
    return Model(
        f"FLUX.1-dev, 1024 px, {steps} steps",
        FluxTransformer2DModel,
        {
            "guidance_embeds": True,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
        },
        {**small, **_TINY_HEADS, "axes_dims_rope": (4, 4, 8)},
        _JOINT_MODULES,
        timesteps=1.0,
        blocks=_DOUBLE,
        steps=steps,
    )


def _wan(size: str, **config: int) -> Model:
    return Model(
        f"Wan 2.1 {size}, 480p, 81 frames",
        WanTransformer3DModel,
        {"text_dim": 4096, **config},
        {**_TINY_HEADS, "num_layers": 2, "ffn_dim": 64, "text_dim": 32},
        ("attn1", "attn2", "ffn"),
        blocks=("blocks",),
    )


_HUNYUAN: Final = Model(
    "HunyuanVideo, 544p, 61 frames",
    HunyuanVideoTransformer3DModel,
    {"text_embed_dim": 4096, "pooled_projection_dim": 768},
    {
        **_TINY_HEADS,
        "num_layers": 2,
        "num_single_layers": 2,
        "num_refiner_layers": 1,
        "text_embed_dim": 16,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (4, 4, 8),
    },
    _JOINT_MODULES,
    {"height": 68, "width": 120, "frames": 16, "text_tokens": 256},
    blocks=_DOUBLE,
)

_QWEN: Final = Model(
    "Qwen-Image, 1024 px",
    QwenImageTransformer2DModel,
    {"joint_attention_dim": 3584},
    {
        **_TINY_HEADS,
        "num_layers": 2,
        "joint_attention_dim": 16,
        "in_channels": 16,
        "out_channels": 4,
        "axes_dims_rope": (4, 6, 6),
    },
    ("attn", "img_mlp", "txt_mlp"),
    {"text_tokens": 256},
    timesteps=1.0,
)

MODELS: Final = {
    model.name: model
    for model in (
        _dit(256),
        _dit(512),
        _flux(28),
        _flux(50),
        _wan("1.3B", num_attention_heads=12, ffn_dim=8960, num_layers=30),
        _QWEN,
        _HUNYUAN,
        _wan("14B", num_attention_heads=40, ffn_dim=13824, num_layers=40),
    )
}
"""The smallest first."""
