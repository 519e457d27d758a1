"""What coarser regions save and what they cost in quality, on the bundled model.

Images: every granularity and estimator under TaylorSeer's fixed intervals, 50 steps at
guidance 2 by two samplers, PSNR against the uncached images; graphs run eagerly. State:
what `explain` says is kept. Times: a step of each granularity with the estimator of
modules under inductor, in turn with the uncached model.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import rfc_compile
from benchmarks.quality import (
    INTERVALS,
    STEPS,
    Cell,
    Sampling,
    compiled,
    fixed,
    label,
    make_sampling,
    mean,
)
from benchmarks.report import RESULTS, Grid, console, save, show
from benchmarks.speed import Variant, measure_steps
from rfc_compile.config.options import GRANULARITIES
from rfc_compile.tools.measure import glyph_dit

PARTS: Final = ("images", "times")
ESTIMATORS: Final = (
    ("subspace", 2),
    ("taylor", 2),
    ("taylor", 1),
    ("rfe", 2),
    ("rfe", 1),
    ("reuse", 0),
)
"""The default of modules first; Taylor in the time of the granularity."""

_CELLS: Final = (Cell("ddim", 2.0), Cell("dpmpp_2m", 2.0))
_BATCH: Final = 8


@dataclass(frozen=True)
class Images:
    """The images of one granularity, estimator and NFC, over the samplers.

    Attributes:
        granularity: what a region is.
        estimator: with its order.
        nfc: full steps of 50.
        regions: that `explain` lists.
        state_bytes: kept between steps, per image (two samples, for guidance).
        psnr: mean over the images, in dB.
        psnr_min: of the worst image, in dB.

    """

    granularity: str
    estimator: str
    nfc: int
    regions: int
    state_bytes: float
    psnr: float
    psnr_min: float

    def __str__(self) -> str:
        """Mean and worst image."""
        return f"{self.psnr:.2f} (min {self.psnr_min:.1f})"


@dataclass(frozen=True)
class Times:
    """What the steps of one granularity cost.

    Attributes:
        granularity: what a region is.
        full: a full step over the uncached one.
        cached: a cached step over the uncached one.
        uncached_ms: median of the uncached step, in milliseconds.

    """

    granularity: str
    full: float
    cached: float
    uncached_ms: float


def measure_images(sampling: Sampling, *, quick: bool) -> Iterator[Images]:
    """All granularities, estimators and intervals; with `quick` fewer."""
    for nfc in tuple(INTERVALS)[: 1 if quick else None]:
        for estimator, order in ESTIMATORS[: 2 if quick else None]:
            for granularity in GRANULARITIES:
                options = {"granularity": granularity, **fixed(nfc)}
                with compiled(estimator, order, **options) as model:
                    scores = sampling.scores(model, label(estimator, order))
                    found = rfc_compile.explain(model)
                assert {score.nfc for score in scores} == {nfc}
                yield Images(
                    granularity=granularity,
                    estimator=label(estimator, order),
                    nfc=nfc,
                    regions=len(found.regions),
                    state_bytes=found.cache_bytes / len(sampling.labels),
                    psnr=mean(scores),
                    psnr_min=min(score.psnr_min for score in scores),
                )


def measure_times(rounds: int) -> Iterator[Times]:
    """Of the default estimator of modules under inductor."""
    model = glyph_dit.load_glyph_dit().to(glyph_dit.default_device())
    for granularity in GRANULARITIES:
        variant = Variant("subspace", 2, "interval", granularity)
        cost = measure_steps(model, variant, rounds, batch=_BATCH)
        yield Times(
            granularity=granularity,
            full=cost.share(cost.full),
            cached=cost.share(cost.cached),
            uncached_ms=cost.uncached.median * 1e3,
        )


def grids(images: Sequence[Images], times: Sequence[Times]) -> list[Grid]:
    """The default of modules in short, PSNR by estimator, the state."""
    tables = [_summary(images, times)]
    for nfc in dict.fromkeys(item.nfc for item in images):
        own = [item for item in images if item.nfc == nfc]
        title = f"PSNR in dB, {nfc} full steps of {STEPS}"
        tables.append(_by_estimator(title, own, str))
    first = [item for item in images if item.nfc == next(iter(INTERVALS))]
    title = "State in MiB per image"
    return [*tables, _by_estimator(title, first, _mebibytes)]


def _by_estimator(title: str, images: Sequence[Images], text: Any) -> Grid:
    known = {(item.estimator, item.granularity): text(item) for item in images}
    rows = [
        [name, *(known.get((name, granularity), "-") for granularity in GRANULARITIES)]
        for name in dict.fromkeys(item.estimator for item in images)
    ]
    return Grid(title, ["estimator", *GRANULARITIES], rows)


def _mebibytes(item: Images) -> str:
    return f"{item.state_bytes / 2**20:.2f}"


def _summary(images: Sequence[Images], times: Sequence[Times]) -> Grid:
    default = label(*ESTIMATORS[0])
    costs = {item.granularity: item for item in times}
    rows = []
    for granularity in GRANULARITIES:
        own = {
            item.nfc: item
            for item in images
            if (item.granularity, item.estimator) == (granularity, default)
        }
        some, cost = next(iter(own.values()), None), costs.get(granularity)
        rows.append(
            [
                granularity,
                "-" if some is None else str(some.regions),
                "-" if some is None else _mebibytes(some),
                "-" if cost is None else f"{cost.cached:.1%}",
                "-" if cost is None else f"{cost.full:.2f}",
                *(str(own.get(nfc, "-")) for nfc in INTERVALS),
            ]
        )
    header = ["granularity", "regions", "MiB per image", "cached step", "full step"]
    header += [f"PSNR dB, {nfc} full" for nfc in INTERVALS]
    return Grid(f"{default}; steps over the uncached step", header, rows)


def run(*, quick: bool, parts: Sequence[str]) -> None:
    """Measure, print and write `results/granularity.json` and `granularity.md`.

    Args:
        quick: a small part, in minutes.
        parts: of `PARTS`; the other stays as an earlier run left it.
    """
    images, times = _earlier()
    count = 4 if quick else 16
    if "images" in parts:
        images = []
        for item in measure_images(make_sampling(_CELLS, count), quick=quick):
            line = f"{item.granularity}, {item.estimator}, NFC {item.nfc}: {item}"
            console.print(line, highlight=False)
            images.append(item)
            _save(images, times, count)
    if "times" in parts:
        times = list(measure_times(5 if quick else 40))
        _save(images, times, count)
    for grid in grids(images, times):
        show(grid)


def _earlier() -> tuple[list[Images], list[Times]]:
    file = RESULTS / "granularity.json"
    if not file.exists():
        return [], []
    data = json.loads(file.read_text(encoding="utf-8"))
    return [Images(**i) for i in data["images"]], [Times(**t) for t in data["times"]]


def _save(images: Sequence[Images], times: Sequence[Times], count: int) -> None:
    note = (
        f"{count} images per sampler ({', '.join(map(str, _CELLS))}), the mean over "
        "both. Steps: glyph-dit under inductor, medians of calls in turn with the "
        f"uncached model, batch {_BATCH}.\n"
    )
    save(
        "granularity",
        "Quality against cost of the granularities",
        {
            "image_count": count,
            "images": [asdict(item) for item in images],
            "times": [asdict(item) for item in times],
        },
        [note, *(grid.markdown() for grid in grids(images, times))],
    )
