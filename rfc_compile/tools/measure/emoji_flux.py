"""emoji-flux: a small FLUX that draws emoji from their names, by rectified flow.

A `diffusers.FluxTransformer2DModel` on 64 tokens of 4x4 pixels of 32x32 RGB. A prompt
is a style (`STYLES`) and the words of an emoji's name. Its card is
`assets/emoji-flux/README.md`.

Shape suffixes: B images, N tokens, C channels, H height, W width.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Final

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from rfc_compile.tools.measure.denoising import Inputs
from rfc_compile.tools.measure.schedulers import flow_schedulers
from rfc_compile.tools.measure.trained_model import ASSETS, TrainedModel
from rfc_compile.tools.measure.word_table import load_words, words_of

STYLES: Final = ("twitter", "google", "fluent")
LENGTH: Final = 10
"""Words of a prompt, the style among them."""
WIDTH: Final = 64
"""Of a word's vector."""
PIXELS: Final = 32
PATCH: Final = 4
_SIDE: Final = PIXELS // PATCH
_NAME: Final = "emoji-flux"


def image_ids() -> Tensor:
    """Row and column of every image token, (N, 3)."""
    ids = torch.zeros(_SIDE * _SIDE, 3)
    place = torch.arange(_SIDE * _SIDE)
    ids[:, 1], ids[:, 2] = place // _SIDE, place % _SIDE
    return ids


def unpack(tokens_BNC: Tensor) -> Tensor:
    """Tokens (B, 64, 48) as images (B, 3, 32, 32)."""
    grid = tokens_BNC.transpose(1, 2).reshape(len(tokens_BNC), -1, _SIDE, _SIDE)
    return nn.functional.pixel_shuffle(grid, PATCH)


words: Final = cache(partial(load_words, ASSETS / _NAME, LENGTH, WIDTH))
"""The bundled model's words; `OptionError` if its files are damaged."""


@torch.no_grad()
def prompt_inputs(prompts: Sequence[str]) -> tuple[Inputs, Inputs]:
    """The inputs of prompts, and of as many empty ones.

    A prompt without a style gets the first of `STYLES`.
    """
    styled = [
        prompt if set(STYLES) & set(words_of(prompt)) else f"{STYLES[0]} {prompt}"
        for prompt in prompts
    ]
    tokens = words().tokens(styled)
    return _inputs(tokens), _inputs(torch.zeros_like(tokens))


def _inputs(tokens: Tensor) -> Inputs:
    vectors, pooled = words()(tokens)
    return {"encoder_hidden_states": vectors, "pooled_projections": pooled}


EMOJI_FLUX: Final = TrainedModel(
    name=_NAME,
    architecture=FluxTransformer2DModel,
    latent_shape=(_SIDE * _SIDE, 3 * PATCH * PATCH),
    schedulers=flow_schedulers(tokens=_SIDE * _SIDE),
    guidance=3.0,
    encode=prompt_inputs,
    examples=(
        "twitter heavy black heart",
        "google grinning face",
        "fluent red apple",
        "twitter dog face",
        "google sun with face",
        "fluent slice of pizza",
        "twitter rocket",
        "google soccer ball",
        "fluent banana",
        "twitter evergreen tree",
        "google fire",
        "fluent birthday cake",
        "twitter cat face",
        "google smiling face with sunglasses",
        "fluent crown",
        "twitter house building",
        "google france flag",
        "fluent ghost",
        "twitter green apple",
        "google thumbs up sign",
        "fluent white medium star",
        "twitter japan flag",
        "google panda face",
        "fluent crescent moon",
    ),
    shared={"img_ids": image_ids(), "txt_ids": torch.zeros(LENGTH, 3)},
    timestep_scale=1e-3,
    decode=unpack,
    blocks=("transformer_blocks", "single_transformer_blocks"),
)
