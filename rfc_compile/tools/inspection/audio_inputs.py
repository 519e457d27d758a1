"""Inputs of audio models of diffusers that the general rules do not make."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from diffusers.models import embeddings

from rfc_compile.tools.inspection.input_maker import Arguments, InputMaker


def _ace_step(make: InputMaker) -> Arguments:
    config, length = make.config, make.sizes.frames
    own = config["audio_acoustic_hidden_dim"]
    return {
        "hidden_states": make.per_sample(length, own),
        "context_latents": make.per_sample(length, config["in_channels"] - own),
    }


def _longcat_audio(make: InputMaker) -> Arguments:
    return {
        "hidden_states": make.per_sample(make.sizes.frames, make.config["latent_dim"])
    }


def _minimax_music(make: InputMaker) -> Arguments:
    config, length = make.config, make.sizes.frames
    return {
        "hidden_states": make.per_sample(config["in_channels"], length),
        "encoder_hidden_states": make.per_sample(length, config["condition_dim"]),
    }


def _stable_audio(make: InputMaker) -> Arguments:
    config, length = make.config, make.sizes.frames
    rotary = embeddings.get_1d_rotary_pos_embed(
        config["attention_head_dim"] // 2,
        length + 1,
        use_real=True,
        repeat_interleave_real=False,
    )
    return {
        "hidden_states": make.per_sample(config["in_channels"], length),
        "timestep": make.floats(1),
        "global_hidden_states": make.per_sample(1, config["global_states_input_dim"]),
        "rotary_embedding": rotary,
    }


def _stable_audio_3(make: InputMaker) -> Arguments:
    config, length = make.config, make.sizes.frames
    return {
        "hidden_states": make.per_sample(config["io_channels"], length),
        "global_hidden_states": make.per_sample(config["global_cond_dim"]),
    }


def _t5_film(make: InputMaker) -> Arguments:
    config, tokens = make.config, make.sizes.text_tokens
    length, width = config["targets_length"], config["d_model"]
    notes = make.per_sample(tokens, width), make.mask(tokens)
    before = make.per_sample(length, width), make.mask(length)
    return {
        "encodings_and_masks": [notes, before],
        "decoder_input_tokens": make.per_sample(length, config["input_dims"]),
        "decoder_noise_time": make.per_sample(),
    }


AUDIO_RULES: Mapping[str, Callable[[InputMaker], Arguments]] = {
    "AceStepTransformer1DModel": _ace_step,
    "LongCatAudioDiTTransformer": _longcat_audio,
    "MiniMaxMusic3Transformer1DModel": _minimax_music,
    "StableAudio3DiTModel": _stable_audio_3,
    "StableAudioDiTModel": _stable_audio,
    "T5FilmDecoder": _t5_film,
}
