"""What the benchmark measures, the file that keeps it, and what is chosen to report.

A method's best setting at each number of full steps is chosen by the selection images
alone; what is reported comes from other images.
"""

import json
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rfc_compile.errors import OptionError
from rfc_compile.io.files import replace_file
from rfc_compile.io.json_files import JSON, Unexpected, load_json
from rfc_compile.io.schema import check_schema, made_of, object_at, typed
from rfc_compile.tools.measure.pareto import Point

SCHEMA: Final = 1
"""Version of the file's form; a reader refuses later ones."""

_MOST_BYTES: Final = 16 << 20
"""Of the file; that of a whole benchmark has a hundred thousand."""

TARGETS: Final = (8, 11, 14, 18)
"""Numbers of full computations (NFC) of 50 steps that the methods are compared at."""

SHAPE_TARGETS: Final = (14,)
"""The ones that are timed on the random shapes."""

SLACK: Final = 0.5
"""A setting counts for a target up to this much above it."""

_DERIVED: Final = ("speedup", "spread")
"""What the file says of a timing beside its fields."""


@dataclass(frozen=True)
class Score:
    """A set of images against the uncached ones of the same noise: means, PSNR in dB.

    ``nfc`` is the blocks' work of the run, in full forwards.
    """

    nfc: float
    psnr: float
    psnr_min: float
    ssim: float
    frechet: float

    def __str__(self) -> str:
        return f"NFC {self.nfc:.1f}, {self.psnr:.2f} dB"


@dataclass(frozen=True)
class Quality:
    """The images of one setting: one set to choose settings by, another to report.

    Attributes:
        selection: on the images that settings are chosen by; None where it failed.
        report: on the other images; None for settings that were not chosen.
        error: why numbers are missing.
    """

    method: str
    setting: str
    selection: Score | None = None
    report: Score | None = None
    error: str | None = None


@dataclass(frozen=True)
class Timing:
    """Runs of one setting, each next to a run of the uncached model.

    Attributes:
        nfc: the blocks' work of the run, in full forwards.
        uncached_seconds: of the run before each, by inductor without caching.
        compile_seconds: the first run less a later one.
        extra_bytes: tensors kept between steps, over those before the run.
        error: why there are no numbers.
    """

    workload: str
    method: str
    setting: str
    mode: str
    nfc: float = 0.0
    steps: int = 0
    seconds: tuple[float, ...] = ()
    uncached_seconds: tuple[float, ...] = ()
    compile_seconds: float = 0.0
    graph_breaks: int = 0
    recompiles: int = 0
    extra_bytes: int = 0
    error: str | None = None

    @property
    def median(self) -> float:
        """Of the runs, in seconds."""
        return statistics.median(self.seconds)

    @property
    def ratios(self) -> list[float]:
        """The speed-up of each run over the uncached run before it."""
        pairs = zip(self.uncached_seconds, self.seconds, strict=True)
        return [uncached / cached for uncached, cached in pairs]

    @property
    def speedup(self) -> float:
        """Over the uncached model under inductor: the median of the pairs."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> float:
        """How noisy: largest less smallest speed-up of a pair, over the median."""
        return (max(self.ratios) - min(self.ratios)) / self.speedup

    @property
    def share(self) -> float:
        """Of the speed-up that the steps and the NFC allow."""
        return self.speedup / (self.steps / self.nfc)


@dataclass
class Records:
    """All that was measured so far."""

    images: int = 0
    qualities: list[Quality] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Replaces the file, with what `about` says of the environment."""
        data = {"schema": SCHEMA, "environment": dict(about), **asdict(self)}
        for timing, item in zip(self.timings, data["timings"], strict=True):
            if timing.seconds:
                item |= {name: getattr(timing, name) for name in _DERIVED}
        replace_file(path, json.dumps(data, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Records":
        """What an earlier run wrote."""
        try:
            data = object_at("$", load_json(path, _MOST_BYTES, infinite=True))
            check_schema(data.pop("schema", None), SCHEMA, "measure again")
            data.pop("environment", None)
            data["timings"] = _without_derived(data.get("timings"))
            return made_of(cls, "$", data)
        except Unexpected as error:
            raise OptionError(f"{path}: {error}") from error

    def only(self, settings: Collection[tuple[str, str]]) -> "Records":
        """What was measured of these methods with these settings."""
        qualities = [q for q in self.qualities if (q.method, q.setting) in settings]
        timings = [t for t in self.timings if (t.method, t.setting) in settings]
        return Records(self.images, qualities, timings)

    def of_method(self, method: str) -> list[Quality]:
        """The images of all settings of a method."""
        return [q for q in self.qualities if q.method == method]

    def quality_of(self, method: str, setting: str) -> Quality | None:
        """The images of a setting, if they were drawn."""
        found = (q for q in self.of_method(method) if q.setting == setting)
        return next(found, None)

    def timings_of(self, workload: str) -> list[Timing]:
        """The runs of a workload that worked."""
        return [t for t in self.timings if t.workload == workload and t.seconds]

    def points_of(self, workload: str) -> list[tuple[Timing, Point]]:
        """(speed-up, PSNR of the reported images) of the runs that have both."""
        points = []
        for timing in self.timings_of(workload):
            quality = self.quality_of(timing.method, timing.setting)
            if quality is not None and quality.report is not None:
                points.append((timing, (timing.speedup, quality.report.psnr)))
        return points


def _without_derived(timings: JSON) -> JSON:
    return [
        {name: value for name, value in item.items() if name not in _DERIVED}
        if isinstance(item, dict)
        else item
        for item in typed(list[Any], "$.timings", timings)
    ]


def best_at(qualities: Iterable[Quality], target: float) -> Quality | None:
    """The best images of those with at most this NFC; None if none has so few."""
    near = [
        (quality, quality.selection)
        for quality in qualities
        if quality.selection is not None and 0 < quality.selection.nfc <= target + SLACK
    ]
    best = max(near, key=lambda item: item[1].psnr, default=None)
    return None if best is None else best[0]


def chosen(qualities: Sequence[Quality], targets: Sequence[float]) -> list[Quality]:
    """The best setting at each target; the cheapest of a method that reaches none."""
    best = [best_at(qualities, target) for target in targets]
    found = list(dict.fromkeys(quality for quality in best if quality is not None))
    if found:
        return found
    working = [(q, q.selection) for q in qualities if q.selection is not None]
    cheapest = min(working, key=lambda item: _cost(item[1]), default=None)
    return [] if cheapest is None else [cheapest[0]]


def _cost(score: Score) -> tuple[float, float]:
    return score.nfc, -score.psnr
