"""Inputs of audio models of diffusers that the general rules do not make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.models import embeddings

from rfc_compile.tools.inspection.input_maker import (
    MASK,
    Arguments,
    ClassRules,
    InputMaker,
)


def _ace_step_context(make: InputMaker) -> Any:
    own = make.config["audio_acoustic_hidden_dim"]
    return make.per_sample(make.sizes.frames, make.config["in_channels"] - own)


def _stable_audio_rotary(make: InputMaker) -> Any:
    return embeddings.get_1d_rotary_pos_embed(
        make.config["attention_head_dim"] // 2,
        make.sizes.frames + 1,
        use_real=True,
        repeat_interleave_real=False,
    )


def _t5_film(make: InputMaker) -> Arguments:
    notes = make.shaped("text_tokens d_model"), make.shaped(MASK)
    before = make.shaped("targets_length d_model"), make.shaped("mask: targets_length")
    return {
        "encodings_and_masks": [notes, before],
        "decoder_input_tokens": make.shaped("targets_length input_dims"),
        "decoder_noise_time": make.per_sample(),
    }


AUDIO_RULES: Mapping[str, ClassRules] = {
    "AceStepTransformer1DModel": {
        "hidden_states": "frames audio_acoustic_hidden_dim",
        "context_latents": _ace_step_context,
    },
    "LongCatAudioDiTTransformer": {"hidden_states": "frames latent_dim"},
    "MiniMaxMusic3Transformer1DModel": {
        "hidden_states": "in_channels frames",
        "encoder_hidden_states": "frames condition_dim",
    },
    "StableAudio3DiTModel": {
        "hidden_states": "io_channels frames",
        "global_hidden_states": "global_cond_dim",
    },
    "StableAudioDiTModel": {
        "hidden_states": "in_channels frames",
        "timestep": lambda make: make.floats(1),
        "global_hidden_states": "1 global_states_input_dim",
        "rotary_embedding": _stable_audio_rotary,
    },
    "T5FilmDecoder": _t5_film,
}
