"""What ComfyUI does to a model, as far as a node pack sees it: a stand-in.

    KSampler -> outer_sample wrappers -> sampler -> guidance -> apply_model wrappers
             -> model's input scaled -> diffusion_model(x, t, context, ...)

The options of a call hold callables, tensors and values that change at every step, as
there; the network reads and writes them, as there.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, TOKENS, TEXT = 32, 2, 16, 4


class Executor:
    """The rest of a chain of wrappers around a function."""

    def __init__(self, original: Any, class_obj: Any, wrappers: Sequence[Any]) -> None:
        self.original, self.class_obj, self.wrappers = original, class_obj, wrappers

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if not self.wrappers:
            return self.original(*arguments, **named)
        first, *rest = self.wrappers
        inner = Executor(self.original, self.class_obj, rest)
        return first(inner, *arguments, **named)


def wrappers_of(options: dict[str, Any], kind: str) -> list[Any]:
    by_key = options.get("wrappers", {}).get(kind, {})
    return [wrapper for own in by_key.values() for wrapper in own]


class Block(nn.Module):
    """Attention of image and text together, then an MLP; looks for replacements."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.modulation = nn.Linear(WIDTH, 2 * WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor, vec: Tensor, transformer_options: Any) -> Tensor:
        shift, scale = self.modulation(F.silu(vec))[:, None].chunk(2, -1)
        given = self.norm(x) * (1 + scale) + shift
        q, k, v = (
            z.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for z in self.qkv(given).chunk(3, -1)
        )
        for patch in transformer_options.get("patches", {}).get("attn1_patch", []):
            q, k, v = patch(q, k, v, extra_options=transformer_options)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.mlp(self.norm(x))


class Network(nn.Module):
    """A `diffusion_model`: latents (B, 4, 8, 8), text (B, TEXT, WIDTH)."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(4, WIDTH, 2, stride=2)
        self.time = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.blocks = nn.ModuleList([Block() for _ in range(blocks)])
        self.head = nn.Linear(WIDTH, 16)
        self.dtype = torch.float32

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006
        **kwargs: Any,
    ) -> Tensor:
        around = wrappers_of(transformer_options, "diffusion_model")
        run = Executor(self._forward, self, around)
        return run(x, timestep, context, control, transformer_options, **kwargs)

    def _forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        control: Any,
        transformer_options: dict[str, Any],
        **_: Any,
    ) -> Tensor:
        options = transformer_options.copy()
        replaced = options.get("patches_replace", {}).get("dit", {})
        rates = torch.exp(-torch.arange(WIDTH // 2, device=x.device) / 2.0)
        angles = 1000 * timestep[:, None] * rates
        vec = self.time(torch.cat([angles.cos(), angles.sin()], -1))
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([context, tokens], 1)
        options["total_blocks"] = len(self.blocks)
        for i, block in enumerate(self.blocks):
            options["block_index"] = i
            if ("double_block", i) in replaced:
                tokens = replaced["double_block", i]({"img": tokens, "vec": vec}, {})
            else:
                tokens = block(tokens, vec, options)
        image = self.head(tokens[:, context.shape[1] :]).transpose(1, 2)
        return F.pixel_shuffle(image.unflatten(2, (4, 4)), 2)


class BaseModel(nn.Module):
    """The network behind its parametrisation, a rectified flow."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.diffusion_model = network

    def apply_model(
        self,
        x: Tensor,
        sigma: Tensor,
        transformer_options: dict[str, Any],
        **conds: Any,
    ) -> Tensor:
        around = wrappers_of(transformer_options, "apply_model")
        run = Executor(self._apply_model, self, around)
        return run(x, sigma, transformer_options=transformer_options, **conds)

    def _apply_model(
        self,
        x: Tensor,
        sigma: Tensor,
        c_crossattn: Tensor,
        transformer_options: dict[str, Any],
        **extra: Any,
    ) -> Tensor:
        output = self.diffusion_model(
            x,
            sigma.float(),
            context=c_crossattn,
            control=None,
            transformer_options=transformer_options.copy(),
            **extra,
        )
        return x - output.float() * sigma[:, None, None, None]


class Patcher:
    """A MODEL as nodes hand it on."""

    def __init__(self, model: BaseModel) -> None:
        self.model = model
        self.attachments: dict[str, Any] = {}
        self.wrappers: dict[str, dict[str, list[Any]]] = {}
        self.model_options: dict[str, Any] = {"transformer_options": {}}

    def clone(self) -> Patcher:
        made = Patcher(self.model)
        made.attachments = dict(self.attachments)
        made.wrappers = {
            kind: {key: list(own) for key, own in by_key.items()}
            for kind, by_key in self.wrappers.items()
        }
        options = self.model_options["transformer_options"]
        made.model_options = {"transformer_options": dict(options)}
        return made

    def get_model_object(self, name: str) -> Any:
        return getattr(self.model, name)

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, kind: str, key: str) -> None:
        self.wrappers.get(kind, {}).pop(key, None)

    def set_attachments(self, key: str, value: Any) -> None:
        self.attachments[key] = value

    def get_attachment(self, key: str) -> Any:
        return self.attachments.get(key)


Denoise = Callable[[Tensor, Tensor], Tensor]


def sample_euler(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    for i in range(len(sigmas) - 1):
        slope = (x - denoise(x, sigmas[i])) / sigmas[i]
        x = x + slope * (sigmas[i + 1] - sigmas[i])
    return x


def sample_heun(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    for i in range(len(sigmas) - 1):
        slope = (x - denoise(x, sigmas[i])) / sigmas[i]
        ahead = x + slope * (sigmas[i + 1] - sigmas[i])
        if sigmas[i + 1] > 0:
            other = (ahead - denoise(ahead, sigmas[i + 1])) / sigmas[i + 1]
            slope = (slope + other) / 2
        x = x + slope * (sigmas[i + 1] - sigmas[i])
    return x


def ksampler(
    patcher: Patcher,
    seed: int,
    steps: int,
    *,
    cfg: float = 4.0,
    sampler: Any = sample_euler,
    separate: bool = False,
    batch: int = 1,
) -> Tensor:
    """A run by the KSampler node; ``separate`` calls the model for each condition."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, 4, 8, 8, generator=draw)
    text = torch.randn(2, TEXT, WIDTH, generator=torch.Generator().manual_seed(99))
    conds = [text[i].expand(batch, -1, -1) for i in (0, 1)]
    names = [uuid.uuid4() for _ in conds]
    sigmas = torch.linspace(1, 0, steps + 1)
    shared = {
        **patcher.model_options["transformer_options"],
        "wrappers": patcher.wrappers,
        "callbacks": {"on_cleanup": {None: [lambda *_: None]}},
        "sample_sigmas": sigmas,
    }

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        groups = [[0], [1]] if separate else [[1, 0]]
        found: dict[int, Tensor] = {}
        for group in groups:
            times = sigma.expand(len(group) * batch)
            options = {
                **shared,
                "cond_or_uncond": group,
                "uuids": [names[i] for i in group],
                "sigmas": sigma[None],
            }
            parts = patcher.model.apply_model(
                torch.cat([x] * len(group)),
                times,
                c_crossattn=torch.cat([conds[i] for i in group]),
                transformer_options=options,
            ).chunk(len(group))
            found.update(zip(group, parts, strict=True))
        return found[1] + cfg * (found[0] - found[1])

    def outer(
        noise: Tensor, latent: Any, sampler: Any, sigmas: Tensor, **_: Any
    ) -> Tensor:
        return sampler.sampler_function(denoise, noise, sigmas)

    around = wrappers_of({"wrappers": patcher.wrappers}, "outer_sample")
    run = Executor(outer, None, around)
    with torch.inference_mode():
        given = SimpleNamespace(sampler_function=sampler)
        return run(noise, torch.zeros_like(noise), given, sigmas, seed=seed)
