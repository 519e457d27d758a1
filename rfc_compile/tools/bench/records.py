"""What the benchmark measures, and the file that keeps it."""

import json
import statistics
from collections.abc import Collection, Mapping
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

_DERIVED: Final = ("speedup", "spread")
"""What the file says of a timing beside its fields."""


@dataclass(frozen=True)
class Score:
    """A set of images against the uncached ones of the same noise.

    Attributes:
        nfc: the blocks' work of the run, in full forwards.
        psnr: mean over the images, in dB.
        psnr_min: of the worst image, in dB.
        ssim: mean over the images.
        frechet: distance to the uncached images in the classifier's features.
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
        seconds: of each run.
        uncached_seconds: of the run before each, by inductor without caching.
        compile_seconds: the first run less a later one.
        graph_breaks: counted by Dynamo.
        recompiles: compilations of code that had been compiled before.
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

    def quality_of(self, method: str, setting: str) -> Quality | None:
        """The images of a setting, if they were drawn."""
        wanted = method, setting
        found = (q for q in self.qualities if (q.method, q.setting) == wanted)
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
