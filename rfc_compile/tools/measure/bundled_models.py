"""The trained models, by the name of their folders."""

from typing import Final

from rfc_compile.tools.measure.emoji_flux import EMOJI_FLUX
from rfc_compile.tools.measure.glyph_dit import GLYPH_DIT, GLYPH_DIT_EPSILON
from rfc_compile.tools.measure.motion_hunyuan import MOTION_HUNYUAN
from rfc_compile.tools.measure.trained_model import TrainedModel

MODELS: Final[dict[str, TrainedModel]] = {
    model.name: model
    for model in (GLYPH_DIT, GLYPH_DIT_EPSILON, EMOJI_FLUX, MOTION_HUNYUAN)
}
