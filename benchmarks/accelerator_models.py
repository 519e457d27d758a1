"""The models of `python -m benchmarks accelerator`: configs, shapes, samplers.

Weights are random, in bfloat16. Runs are Euler steps from noise along the output.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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

Config = Mapping[str, Any]

_DTYPE: Final = torch.bfloat16


@dataclass(frozen=True)
class Model:
    """A model, how it is called, and a tiny one like it.

    Attributes:
        name: as the tables show it.
        build: its class.
        config: that of the published model, where it is not the class's default.
        small: what the tiny model has instead.
        latent: shape of a latent; its batch has one sample.
        inputs: makes the other inputs from the config and the latent's shape.
        small_latent: that of the tiny model.
        timesteps: the first of a run; the last one is near 0.
        modules: names of the modules inside a block that caches of modules take.
        blocks: names of the lists of blocks.
        steps: of a run.

    """

    name: str
    build: Callable[..., nn.Module]
    config: Mapping[str, Any]
    small: Mapping[str, Any]
    latent: tuple[int, ...]
    small_latent: tuple[int, ...]
    inputs: Callable[[Config, tuple[int, ...]], dict[str, Any]]
    modules: tuple[str, ...]
    timesteps: float = 1000.0
    blocks: tuple[str, ...] = ("transformer_blocks",)
    steps: int = 50

    def tiny(self) -> "Model":
        """One that a CPU draws with in a second."""
        return replace(
            self,
            config={**self.config, **self.small},
            latent=self.small_latent,
            steps=10,
        )

    def workload(self, device: str) -> Workload:
        """As the methods of the bench take it."""
        return Workload(
            self.name,
            partial(self._make, device),
            partial(self._draw, device),
            trained=False,
            modules=self.modules,
            blocks=self.blocks,
            steps=self.steps,
            calls=self.steps,
        )

    def _make(self, device: str) -> nn.Module:
        torch.manual_seed(0)
        with torch.device(device):  # billions of weights: nowhere else, and once
            before = torch.get_default_dtype()
            torch.set_default_dtype(_DTYPE)
            try:
                model = self.build(**self.config)
            finally:
                torch.set_default_dtype(before)
        return model.eval().requires_grad_(False)

    @torch.no_grad()
    def _draw(
        self, device: str, denoise: Denoise, images: int, steps: int, seed: int
    ) -> Tensor:
        x = _noise(seed, images, *self.latent).to(device)
        inputs = self.inputs(self.config, (images, *self.latent))
        inputs = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }
        for index in range(steps):
            sigma = 1 - index / steps
            step = Step(index, steps, 1000 * sigma, sigma)
            t = torch.full((images,), self.timesteps * sigma, device=device)
            prediction = denoise(step, x, timestep=t, **inputs)
            x = x - prediction.narrow(1, 0, x.shape[1]) / steps
        return x


def _noise(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(_DTYPE)


def _dit_inputs(config: Config, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"class_labels": torch.arange(shape[0])}


def _flux_inputs(config: Config, shape: tuple[int, ...]) -> dict[str, Any]:
    text = 512 if shape[1] > 1000 else 8
    return {
        "encoder_hidden_states": _noise(1, 1, text, config["joint_attention_dim"]),
        "pooled_projections": _noise(2, 1, config["pooled_projection_dim"]),
        "img_ids": torch.zeros(shape[1], 3),
        "txt_ids": torch.zeros(text, 3),
        "guidance": torch.full((1,), 3.5),
    }


def _hunyuan_inputs(config: Config, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "encoder_hidden_states": _noise(1, 1, 256, config["text_embed_dim"]),
        "encoder_attention_mask": torch.ones(1, 256),
        "pooled_projections": _noise(2, 1, config["pooled_projection_dim"]),
        "guidance": torch.full((1,), 6000.0),
    }


def _wan_inputs(config: Config, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"encoder_hidden_states": _noise(1, 1, 512, config["text_dim"])}


def _qwen_inputs(config: Config, shape: tuple[int, ...]) -> dict[str, Any]:
    side, text = int(shape[1] ** 0.5), 256
    return {
        "encoder_hidden_states": _noise(1, 1, text, config["joint_attention_dim"]),
        "encoder_hidden_states_mask": torch.ones(1, text, dtype=torch.bool),
        "img_shapes": [[(1, side, side)]],
    }


def _dit(pixels: int) -> Model:
    side = pixels // 8
    return Model(
        f"DiT-XL/2, {pixels} px",
        DiTTransformer2DModel,
        {
            "num_attention_heads": 16,
            "attention_head_dim": 72,
            "num_layers": 28,
            "sample_size": side,
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
        (4, side, side),
        (4, 8, 8),
        _dit_inputs,
        ("attn1", "ff"),
    )


def _flux(steps: int) -> Model:
    small = {"num_layers": 2, "num_single_layers": 2, "num_attention_heads": 2}
    small |= {"attention_head_dim": 16, "joint_attention_dim": 32, "in_channels": 4}
    return Model(
        f"FLUX.1-dev, 1024 px, {steps} steps",
        FluxTransformer2DModel,
        {
            "guidance_embeds": True,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
        },
        {**small, "pooled_projection_dim": 32, "axes_dims_rope": (4, 4, 8)},
        (4096, 64),
        (16, 4),
        _flux_inputs,
        ("attn", "ff", "ff_context", "proj_mlp"),
        timesteps=1.0,
        blocks=("transformer_blocks", "single_transformer_blocks"),
        steps=steps,
    )


def _wan(size: str, **config: int) -> Model:
    return Model(
        f"Wan 2.1 {size}, 480p, 81 frames",
        WanTransformer3DModel,
        {"text_dim": 4096, **config},
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 2,
            "ffn_dim": 64,
            "text_dim": 32,
        },
        (16, 21, 60, 104),
        (16, 1, 8, 8),
        _wan_inputs,
        ("attn1", "attn2", "ffn"),
        blocks=("blocks",),
    )


_HUNYUAN: Final = Model(
    "HunyuanVideo, 544p, 61 frames",
    HunyuanVideoTransformer3DModel,
    {"text_embed_dim": 4096, "pooled_projection_dim": 768},
    {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "num_refiner_layers": 1,
        "text_embed_dim": 16,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (4, 4, 8),
    },
    (16, 16, 68, 120),
    (16, 1, 8, 8),
    _hunyuan_inputs,
    ("attn", "ff", "ff_context", "proj_mlp"),
    blocks=("transformer_blocks", "single_transformer_blocks"),
)

_QWEN: Final = Model(
    "Qwen-Image, 1024 px",
    QwenImageTransformer2DModel,
    {"joint_attention_dim": 3584},
    {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "joint_attention_dim": 16,
        "in_channels": 16,
        "out_channels": 4,
        "axes_dims_rope": (4, 6, 6),
    },
    (4096, 64),
    (16, 16),
    _qwen_inputs,
    ("attn", "img_mlp", "txt_mlp"),
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
