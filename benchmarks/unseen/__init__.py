"""Three small trained models that no constant of the package was chosen on.

They stand for what a user brings: other architectures, data, predictions and schedules
than those of the bundled models. Choose nothing on them: they would judge it no more.
`train.py` made their weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import PixArtTransformer2DModel, SD3Transformer2DModel
from torch import Tensor, nn

from benchmarks.unseen.series_transformer import SeriesTransformer
from rfc_compile.tools.measure.denoising import Inputs
from rfc_compile.tools.measure.schedulers import diffusion_schedulers, flow_schedulers
from rfc_compile.tools.measure.trained_model import TrainedModel

WIDTH: Final = 96
HEADS: Final = {"num_attention_heads": 4, "attention_head_dim": WIDTH // 4}
DEPTH: Final = {"num_layers": 4}
TEXT: Final = 64
"""Width of the vector that stands for a label."""


@dataclass(frozen=True, kw_only=True)
class UnseenModel(TrainedModel):
    """A model of this folder.

    Attributes:
        config: of the architecture.
    """

    config: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where its weights are."""
        return Path(__file__).parent / self.name

    def make(self) -> nn.Module:
        """An untrained one."""
        made: nn.Module = self.architecture.from_config(self.config)
        return made


def by_text(count: int, *, pooled: bool) -> Callable[[Any], tuple[Inputs, Inputs]]:
    """A fixed vector for each of `count` labels, and one for no label."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(count + 1, TEXT, generator=generator)

    def inputs(labels: Tensor) -> Inputs:
        chosen = vectors[labels]
        more = {"pooled_projections": chosen} if pooled else {}
        return {"encoder_hidden_states": chosen.unsqueeze(1), **more}

    def encode(labels: Sequence[int] | Tensor) -> tuple[Inputs, Inputs]:
        wanted = torch.as_tensor(labels)
        return inputs(wanted), inputs(torch.full_like(wanted, count))

    return encode


def by_label(labels: Sequence[int] | Tensor) -> tuple[Inputs, Inputs]:
    """The labels of series themselves; the number after the last is none."""
    wanted = torch.as_tensor(labels)
    return {"labels": wanted}, {"labels": torch.full_like(wanted, 10)}


SD3_DIGITS: Final = UnseenModel(
    name="sd3-digits",
    architecture=SD3Transformer2DModel,
    config={
        **HEADS,
        **DEPTH,
        "sample_size": 8,
        "patch_size": 1,
        "in_channels": 1,
        "out_channels": 1,
        "joint_attention_dim": TEXT,
        "caption_projection_dim": WIDTH,
        "pooled_projection_dim": TEXT,
        "pos_embed_max_size": 8,
    },
    latent_shape=(1, 8, 8),
    schedulers=flow_schedulers(tokens=64),
    guidance=2.0,
    encode=by_text(10, pooled=True),
    examples=range(10),
)
"""A flow; handwritten digits of 8x8 pixels."""

PIXART_PHOTOGRAPHS: Final = UnseenModel(
    name="pixart-photographs",
    architecture=PixArtTransformer2DModel,
    config={
        **HEADS,
        **DEPTH,
        "sample_size": 16,
        "patch_size": 2,
        "in_channels": 3,
        "out_channels": 3,
        "cross_attention_dim": WIDTH,
        "caption_channels": TEXT,
    },
    latent_shape=(3, 16, 16),
    schedulers=diffusion_schedulers("epsilon"),
    guidance=2.0,
    encode=by_text(2, pooled=False),
    examples=range(2),
    modules=("attn1", "attn2", "ff"),
)
"""Predicts epsilon; parts of two photographs."""

SERIES_TRANSFORMER: Final = UnseenModel(
    name="series-transformer",
    architecture=SeriesTransformer,
    config={**DEPTH, "width": WIDTH, "heads": 4, "channels": 3, "points": 64},
    latent_shape=(3, 64),
    schedulers={
        name: made
        for name, made in diffusion_schedulers("sample").items()
        if name not in ("euler", "heun")  # they do not take this prediction
    },
    guidance=2.0,
    encode=by_label,
    examples=range(10),
    decode=lambda series: series.unsqueeze(2),
    blocks=("layers",),
    modules=("self_attn", "linear1", "linear2"),
)
"""Predicts the sample, as models of motion do; waves in three channels."""

UNSEEN: Final[dict[str, TrainedModel]] = {
    model.name: model for model in (SD3_DIGITS, PIXART_PHOTOGRAPHS, SERIES_TRANSFORMER)
}
