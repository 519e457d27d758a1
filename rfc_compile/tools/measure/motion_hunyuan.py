"""motion-hunyuan: a small HunyuanVideo that draws moving, turning digits as clips.

A `diffusers.HunyuanVideoTransformer3DModel` on clips of 8 frames of 24x24 RGB in pixel
space, by rectified flow. A prompt is a digit, where it goes and how it turns, as
"7 left clockwise".

Shape suffixes: B clips, C channels, T frames, H height, W width.
"""

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import Final

import torch
from diffusers import HunyuanVideoTransformer3DModel
from torch import Tensor

from rfc_compile.tools.measure.denoising import Inputs
from rfc_compile.tools.measure.schedulers import flow_schedulers
from rfc_compile.tools.measure.trained_model import ASSETS, TrainedModel
from rfc_compile.tools.measure.word_table import PADDING, WordTable, load_words

DIGITS: Final = tuple("0123456789")
DIRECTIONS: Final = ("left", "right", "up", "down")
TURNS: Final = ("straight", "clockwise", "anticlockwise")
VOCABULARY: Final = (PADDING, *DIGITS, *DIRECTIONS, *TURNS)
LENGTH: Final = 3
"""Words of a prompt."""
WIDTH: Final = 64
"""Of a word's vector."""
CLIP_SHAPE: Final = (3, 8, 24, 24)
_PATCH: Final = (2, 4, 4)
_NAME: Final = "motion-hunyuan"
_TOKENS: Final = math.prod(
    size // part for size, part in zip(CLIP_SHAPE[1:], _PATCH, strict=True)
)

words: Final = cache(partial(load_words, ASSETS / _NAME, LENGTH, WIDTH))
"""The bundled model's words; `OptionError` if its files are damaged."""


@torch.no_grad()
def prompt_inputs(prompts: Sequence[str]) -> tuple[Inputs, Inputs]:
    """The inputs of prompts, and of as many empty ones."""
    tokens = words().tokens(prompts)
    return text_inputs(words(), tokens), text_inputs(words(), torch.zeros_like(tokens))


def text_inputs(table: WordTable, tokens: Tensor) -> Inputs:
    """What the model gets of the words (B, LENGTH); padding is a word like others."""
    vectors, pooled = table(tokens)
    return {
        "encoder_hidden_states": vectors,
        "encoder_attention_mask": torch.ones_like(tokens),
        "pooled_projections": pooled,
    }


MOTION_HUNYUAN: Final = TrainedModel(
    name=_NAME,
    architecture=HunyuanVideoTransformer3DModel,
    latent_shape=CLIP_SHAPE,
    schedulers=flow_schedulers(_TOKENS),
    guidance=2.0,
    encode=prompt_inputs,
    examples=(
        "7 left clockwise",
        "2 right straight",
        "4 up anticlockwise",
        "9 down clockwise",
    ),
    blocks=("transformer_blocks", "single_transformer_blocks"),
)
