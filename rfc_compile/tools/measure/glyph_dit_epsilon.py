"""glyph-dit-epsilon: glyph-dit's network, trained on the noise with learned variance.

DiT's own form: twice the output channels, the noise and what share of the variance's
range the noise of a DDPM step takes. Another seed and other images than glyph-dit's.
Its card is `assets/glyph-dit-epsilon/README.md`.
"""

from dataclasses import replace
from typing import Final

from rfc_compile.tools.measure.glyph_dit import GLYPH_DIT
from rfc_compile.tools.measure.schedulers import diffusion_schedulers

GLYPH_DIT_EPSILON: Final = replace(
    GLYPH_DIT,
    name="glyph-dit-epsilon",
    schedulers=diffusion_schedulers("epsilon", variance="learned_range"),
)
