"""What the memory options cost in quality: bytes of state against PSNR.

The bundled model, DDIM, 50 steps, guidance 2 in one batch, one full step in four;
regions are single modules, which keep most. The graphs run eagerly, since the numbers
are about values and not about time. PSNR is against the uncached images.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

import rfc_compile
from benchmarks.report import Grid, console, save, show
from rfc_compile.tools.measure import glyph_dit
from rfc_compile.tools.measure.metrics import psnr

STEPS: Final = 50
SEED: Final = 1000
IMAGES: Final = 8
DTYPES: Final = tuple({"cache_dtype": d} for d in ("bfloat16", "float16", "float8"))
SKETCHES: Final = tuple({"input_sketch": n} for n in (2, 4, 8, 16))
BOTH: Final = tuple({"input_sketch": 4, **dtype} for dtype in (DTYPES[0], DTYPES[2]))
SETTINGS: Final[Mapping[str, tuple[dict[str, Any], ...]]] = {
    "subspace": ({}, *DTYPES, *SKETCHES, *BOTH),
    "rfe": ({}, *DTYPES, *SKETCHES),
    "taylor": ({}, *DTYPES),
}
BUDGETS: Final = (0.75, 0.5, 0.25, 0.125)
"""Of the bytes that all modules take."""


@dataclass(frozen=True)
class Score:
    """One setting.

    Attributes:
        estimator: its name.
        setting: the memory options in words.
        bytes: of state, for one CFG branch.
        psnr: mean over the images, in dB.
        lowest: the worst image's.
        sketch_error: what `stats` says of it; None without a sketch.
        nfc: full steps.
        note: what a budget did.

    """

    estimator: str
    setting: str
    bytes: int
    psnr: float
    lowest: float
    sketch_error: float | None
    nfc: int
    note: str


def run(*, quick: bool) -> None:
    """Measure, print and write `results/memory.json` and `memory.md`."""
    labels = (
        torch.arange(IMAGES, device=glyph_dit.default_device()) % glyph_dit.NUM_CLASSES
    )
    reference = _draw(glyph_dit.load_glyph_dit().to(labels.device), labels)
    scores: list[Score] = []
    for estimator, settings in list(SETTINGS.items())[: 1 if quick else None]:
        for setting in settings[: 4 if quick else None]:
            scores.append(_score(estimator, setting, labels, reference))
            _save(scores)
        if estimator == "subspace" and not quick:
            for share in BUDGETS:
                budget = {"memory_budget": int(share * scores[0].bytes)}
                scores.append(_score(estimator, budget, labels, reference))
                _save(scores)
    show(_grid(scores))


def _save(scores: Sequence[Score]) -> None:
    """Write what there is, so that a run that is stopped leaves whole tables."""
    data = {"images": IMAGES, "steps": STEPS, "scores": [asdict(s) for s in scores]}
    parts = [f"{__doc__}\n", _grid(scores).markdown()]
    save("memory", "Memory and quality", data, parts)


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
    error: float | None = None

    def look(done: int, total: int) -> None:
        nonlocal error
        if done == total // 2:  # the state may be freed at the end
            error = rfc_compile.stats(model).sketch_error

    with warnings.catch_warnings():
        warnings.simplefilter("error", rfc_compile.UncachedWarning)
        values = psnr(_draw(model, labels, look), reference)
    explanation = rfc_compile.explain(model)
    words = ", ".join(f"{name}={value}" for name, value in setting.items())
    score = Score(
        estimator=estimator,
        setting=words or "default",
        bytes=explanation.cache_bytes,
        psnr=float(values.mean()),
        lowest=float(values.min()),
        sketch_error=error,
        nfc=rfc_compile.stats(model).nfc,
        note="; ".join(explanation.notes).rpartition(": ")[2],
    )
    console.print(f"{estimator}, {score.setting}: {score.psnr:.2f} dB")
    return score


def _draw(model: Any, labels: Tensor, progress: Any = None) -> Tensor:
    return glyph_dit.sample(
        model, labels=labels, seed=SEED, steps=STEPS, progress=progress
    )


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
            "" if score.sketch_error is None else f"{score.sketch_error:.1%}",
            score.note,
        ]
        for score in scores
    ]
    header = ["estimator", "setting", "MiB", "of default", "PSNR in dB", "worst"]
    return Grid("Bytes and PSNR", [*header, "sketch error", "note"], rows)
