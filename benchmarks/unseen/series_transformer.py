"""A denoiser of series as one writes it with torch's own encoder.

Shape suffixes: B series, C channels, L points, D width.
"""

from functools import partial
from typing import Any, Final

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn
from torch.nn import functional as F

LABELS: Final = 10


class SeriesTransformer(ModelMixin, ConfigMixin):
    """Timestep and label are a token before the points, as in MDM (arXiv 2209.14916).

    Args:
        width: of a token.
        heads: of an attention.
        num_layers: of the encoder.
        channels: of a series.
        points: of a series.
    """

    @register_to_config
    def __init__(
        self, width: int, heads: int, num_layers: int, channels: int, points: int
    ) -> None:
        super().__init__()
        self.points_in = nn.Linear(channels, width)
        self.positions = nn.Parameter(torch.randn(points + 1, width) * 0.02)
        self.time = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.label = nn.Embedding(LABELS + 1, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, partial(F.gelu), batch_first=True
            )  # not by its name: torch's fused layer would not call the linear ones
            for _ in range(num_layers)
        )
        self.points_out = nn.Linear(width, channels)

    def forward(self, x_BCL: Tensor, *, timestep: Tensor, labels: Tensor) -> Any:
        """The denoised series, in `.sample` (B, C, L)."""
        waves = get_timestep_embedding(timestep, self.time[0].in_features)
        condition_BD = self.time(waves) + self.label(labels)
        points_BLD = self.points_in(x_BCL.transpose(1, 2))
        tokens = torch.cat([condition_BD.unsqueeze(1), points_BLD], 1) + self.positions
        for layer in self.layers:
            tokens = layer(tokens)
        points = self.points_out(tokens[:, 1:])
        return Transformer2DModelOutput(sample=points.transpose(1, 2))
