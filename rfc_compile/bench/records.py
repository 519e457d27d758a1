"""What the benchmark measures, and the file that keeps it."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rfc_compile.bench.pareto import Point
from rfc_compile.bench.report import replace_file


@dataclass(frozen=True)
class Quality:
    """The images of one setting against the uncached ones.

    Attributes:
        method: its name.
        setting: in one line.
        nfc: the blocks' work of the run, in full forwards.
        psnr: mean over the images, in dB; None where the method failed.
        psnr_min: of the worst image, in dB.
        ssim: mean over the images.
        frechet: distance to the uncached images in the classifier's features.
        error: why there are no numbers.

    """

    method: str
    setting: str
    nfc: float = 0.0
    psnr: float | None = None
    psnr_min: float | None = None
    ssim: float | None = None
    frechet: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Timing:
    """Runs of one setting, each next to a run of the uncached model.

    Attributes:
        workload: what was run.
        method: its name.
        setting: in one line.
        mode: `eager` or `inductor`.
        nfc: the blocks' work of the run, in full forwards.
        steps: denoising steps of a run.
        seconds: of each run.
        uncached_seconds: of the runs in between, by inductor without caching.
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
    def speedup(self) -> float:
        """Over the uncached model under inductor."""
        return statistics.median(self.uncached_seconds) / self.median

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
        data = {"environment": dict(about), **asdict(self)}
        replace_file(path, json.dumps(data, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Records":
        """What an earlier run wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        timings = [Timing(**_tuples(item)) for item in data["timings"]]
        qualities = [Quality(**item) for item in data["qualities"]]
        return cls(data["images"], qualities, timings)

    def quality_of(self, method: str, setting: str) -> Quality | None:
        """The images of a setting, if they were drawn."""
        wanted = method, setting
        found = (q for q in self.qualities if (q.method, q.setting) == wanted)
        return next(found, None)

    def timings_of(self, workload: str) -> list[Timing]:
        """The runs of a workload that worked."""
        return [t for t in self.timings if t.workload == workload and t.seconds]

    def points_of(self, workload: str) -> list[tuple[Timing, Point]]:
        """(speed-up, PSNR) of the runs whose images were compared."""
        points = []
        for timing in self.timings_of(workload):
            quality = self.quality_of(timing.method, timing.setting)
            if quality is not None and quality.psnr is not None:
                points.append((timing, (timing.speedup, quality.psnr)))
        return points


def _tuples(item: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in item.items()}
