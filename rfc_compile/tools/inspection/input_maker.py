"""How inputs of a model are made: sizes, dtypes and the sequence of an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rfc_compile.errors import OptionError
from rfc_compile.tools.inspection.input_sizes import InputSizes, config_value, is_video

_TEXT_WIDTHS = (
    "caption_channels",
    "text_embed_dim",
    "joint_attention_dim",
    "text_dim",
    "text_hidden_dim",
    "in_text_dim",
    "dit_text_dim",
    "cap_feat_dim",
    "context_in_dim",
    "cross_attention_input_dim",
    "cond_token_dim",
    "encoder_hidden_size",
    "cross_attention_dim",
    "condition_dim",
    "embedding_dim",
    "hidden_size",
)
"""Config fields for the width of the text's embedding, the first that is set."""

IMAGE_TOKENS = 257
"""Tokens of an image encoder: 16 x 16 patches and one for the whole."""

MASK = "mask: text_tokens"

Arguments = dict[str, Any]
"""Keyword arguments; None leaves an optional one out."""


@dataclass(frozen=True)
class InputMaker:
    """Makes inputs for one model; of its ``accepted`` arguments the required are
    True.
    """

    config: Mapping[str, Any]
    accepted: Mapping[str, bool]
    sizes: InputSizes
    dtype: torch.dtype

    def floats(self, *shape: int) -> Tensor:
        """Ones of this shape."""
        return torch.ones(shape, dtype=self.dtype)

    def per_sample(self, *shape: int) -> Tensor:
        """Ones of shape (B, ...)."""
        return self.floats(self.sizes.batch, *shape)

    def mask(self, *shape: int) -> Tensor:
        """Booleans of shape (B, ...), all True."""
        return torch.ones((self.sizes.batch, *shape), dtype=torch.bool)

    def indices(self, *shape: int) -> Tensor:
        """Zeros of shape (B, ...)."""
        return torch.zeros((self.sizes.batch, *shape), dtype=torch.long)

    def size(self, word: str) -> int:
        """A number, a field of ``InputSizes`` or of the config, or a count of tokens.

        ``patches`` are those of a latent packed by 2 x 2, ``grid`` those of the model.
        """
        known = {**vars(self.sizes), "image_tokens": IMAGE_TOKENS}
        if word in known:
            return int(known[word])
        if word in ("patches", "grid"):
            return math.prod(getattr(self, word))
        return int(word) if word.isdigit() else int(self.config[word])

    def shaped(self, words: str) -> Tensor:
        """Ones of shape (B, ...), by its sizes; ``mask:`` and ``index:`` go before."""
        kind, _, sizes = words.rpartition(":")
        make = {"": self.per_sample, "mask": self.mask, "index": self.indices}[kind]
        return make(*map(self.size, sizes.split()))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the model's patches."""
        step = self.config["patch_size"]
        return self.sizes.height // step, self.sizes.width // step

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of a latent packed by 2 x 2."""
        return self.sizes.height // 2, self.sizes.width // 2

    @property
    def text_width(self) -> int:
        """Width of the text's embedding."""
        width = config_value(self.config, *_TEXT_WIDTHS)
        if not isinstance(width, int):
            raise OptionError("its config does not tell the width of its text")
        return width

    def latent(self, channels: int | None = None) -> Tensor:
        """The latent: tokens, an image (B, C, H, W) or a video (B, C, F, H, W)."""
        if channels is None:
            channels = config_value(self.config, "in_channels", "io_channels")
        if channels is None:
            raise OptionError("its config does not tell the latent's channels")
        sizes, grid = self.sizes, (self.sizes.height, self.sizes.width)
        if {"img_ids", "img_shapes"} & set(self.accepted):
            return self.per_sample(self.patches[0] * self.patches[1], channels)
        if "num_frames" in self.accepted:
            return self.per_sample(sizes.frames * grid[0] * grid[1], channels)
        if is_video(self.config):
            return self.per_sample(channels, sizes.frames, *grid)
        return self.per_sample(channels, *grid)

    def text(self, width: int | None = None) -> Tensor:
        """Embedded text, (B, T, width)."""
        return self.per_sample(self.sizes.text_tokens, width or self.text_width)


Rule: TypeAlias = str | Callable[[InputMaker], Any]
"""A shape for ``InputMaker.shaped``, or a function; None leaves the argument out."""

ClassRules: TypeAlias = Mapping[str, Rule] | Callable[[InputMaker], Arguments]
"""The rules of a class by argument, or a function that returns its arguments."""


def where(field: str, words: str) -> Rule:
    """A shape if the config's field is set, else None."""
    return lambda make: make.shaped(words) if make.config.get(field) else None
