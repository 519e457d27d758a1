"""What `cache_dtype` costs in quality: bytes of state against PSNR.

The bundled model, DDIM, 50 steps, guidance 2 in one batch, one full step in four;
regions are single modules, which keep most. The graphs run eagerly, since the numbers
are about values and not about time. PSNR is against the uncached images.
"""

import warnings
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

import rfc_compile
from benchmarks.report import Grid, console, save, show
from rfc_compile.tools.bench.methods.base import describe
from rfc_compile.tools.measure import glyph_dit
from rfc_compile.tools.measure.metrics import psnr

STEPS: Final = 50
SEED: Final = 1000
IMAGES: Final = 8
ESTIMATORS: Final = ("subspace", "rfe", "taylor")
SETTINGS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"cache_dtype": "bfloat16"},
    {"cache_dtype": "float16"},
)


@dataclass(frozen=True)
class Score:
    """One setting: bytes of state for one CFG branch, PSNR in dB, full steps."""

    estimator: str
    setting: str
    bytes: int
    psnr: float
    lowest: float
    nfc: int


def run(args: Namespace) -> None:
    """Measure; write after every setting, so that whole tables are left."""
    labels = (
        torch.arange(IMAGES, device=glyph_dit.default_device()) % glyph_dit.NUM_CLASSES
    )
    reference = _draw(glyph_dit.load_glyph_dit().to(labels.device), labels)
    scores: list[Score] = []
    for estimator in ESTIMATORS[: 1 if args.quick else None]:
        for setting in SETTINGS:
            scores.append(_score(estimator, setting, labels, reference))
            data = {"images": IMAGES, "steps": STEPS}
            data |= {"scores": [asdict(score) for score in scores]}
            grids, about = [_grid(scores)], __doc__ or ""
            save("memory", "Memory and quality", data, grids, introduction=about)
    show(_grid(scores))


def _score(
    estimator: str, setting: Mapping[str, Any], labels: Tensor, reference: Tensor
) -> Score:
    torch.compiler.reset()
    options = {
        "estimator": estimator,
        "schedule": "interval",
        "interval": 4,
        "warmup": 2,
        "granularity": "module",
        "inner": "eager",
        **setting,
    }
    plain = glyph_dit.load_glyph_dit().to(labels.device)
    model = torch.compile(plain, backend="rfc", options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", rfc_compile.UncachedWarning)
        values = psnr(_draw(model, labels), reference)
    score = Score(
        estimator=estimator,
        setting=describe(setting),
        bytes=rfc_compile.explain(model).cache_bytes,
        psnr=float(values.mean()),
        lowest=float(values.min()),
        nfc=rfc_compile.stats(model).nfc,
    )
    console.print(f"{estimator}, {score.setting}: {score.psnr:.2f} dB")
    return score


def _draw(model: Any, labels: Tensor) -> Tensor:
    return glyph_dit.sample(model, labels=labels, seed=SEED, steps=STEPS)


def _grid(scores: Sequence[Score]) -> Grid:
    usual = {s.estimator: s.bytes for s in scores if s.setting == "default"}
    rows = [
        [
            score.estimator,
            score.setting,
            f"{score.bytes / 2**20:.2f}",
            f"{score.bytes / usual[score.estimator]:.0%}",
            f"{score.psnr:.2f}",
            f"{score.lowest:.2f}",
        ]
        for score in scores
    ]
    header = ["estimator", "setting", "MiB", "of default", "PSNR in dB", "worst"]
    return Grid("Bytes and PSNR", header, rows)
