"""Draws ten digits with the bundled model, most of its work skipped.

Run: python examples/quickstart.py
"""

import torch
from matplotlib.image import imsave

import rfc_compile
from rfc_compile.tools.measure import glyph_dit


def main() -> None:
    """Compiles the bundled model with rfc, samples it, and shows what was skipped."""
    device = glyph_dit.default_device()
    model = glyph_dit.load_glyph_dit().to(device)
    model = torch.compile(model, backend="rfc", options={"threshold": 0.2})
    with rfc_compile.trajectory("ten digits", num_steps=50):
        images = glyph_dit.sample(model, labels=torch.arange(10, device=device), seed=0)
    print(rfc_compile.explain(model))
    print(rfc_compile.stats(model))
    row = torch.cat(list(images), dim=-1).permute(1, 2, 0)
    imsave("quickstart.png", ((row + 1) / 2).cpu().numpy())


if __name__ == "__main__":
    main()
