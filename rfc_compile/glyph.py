"""The bundled model and its sampler, by the name that users import."""

from rfc_compile.tools.measure.glyph_dit import (
    EMPTY_CLASS,
    IMAGE_SHAPE,
    MODEL_FOLDER,
    NUM_CLASSES,
    SCHEDULERS,
    Denoiser,
    count_calls,
    default_device,
    initial_noise,
    load_glyph_dit,
    make_scheduler,
    sample,
)

__all__ = [
    "EMPTY_CLASS",
    "IMAGE_SHAPE",
    "MODEL_FOLDER",
    "NUM_CLASSES",
    "SCHEDULERS",
    "Denoiser",
    "count_calls",
    "default_device",
    "initial_noise",
    "load_glyph_dit",
    "make_scheduler",
    "sample",
]
