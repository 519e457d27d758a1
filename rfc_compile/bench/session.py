"""One run of the benchmark: what to measure, in which order, and what is written."""

import time
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rfc_compile.bench.frechet import load_classifier
from rfc_compile.bench.methods import METHODS
from rfc_compile.bench.methods.base import Method, Mode, describe
from rfc_compile.bench.plot import save_plot
from rfc_compile.bench.quality import Judge, measure_quality
from rfc_compile.bench.records import Records, Timing
from rfc_compile.bench.report import console, environment, replace_file
from rfc_compile.bench.selection import TARGETS, to_time
from rfc_compile.bench.tables import grids, readme_table, write_readme
from rfc_compile.bench.timing import measure_time
from rfc_compile.bench.verdicts import verdicts
from rfc_compile.bench.workloads import GLYPH, STEPS, WORKLOADS, Workload, plain
from rfc_compile.errors import OptionError

SHAPE_NFC: Final = 14
"""On the random shapes each method runs at its best setting with this NFC."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        images: per setting, for the images' numbers.
        targets: NFCs that settings are chosen at.
        timed_images: per timed run of the bundled model; 1 on the random shapes.
        repeats: timed runs.
        training: images and steps that the classifier is trained on.

    """

    images: int
    targets: tuple[float, ...]
    timed_images: int
    repeats: int
    training: tuple[int, int]


FULL: Final = Size(20, TARGETS, 8, 3, (300, 12))
QUICK: Final = Size(2, (TARGETS[-1],), 1, 2, (50, 4))


def run_session(args: Namespace) -> int:
    """Does what `rfc-compile bench` is asked for."""
    size = QUICK if args.quick else FULL
    chosen = [m for m in METHODS.values() if args.methods in m.name]
    if not chosen:
        names = ", ".join(METHODS)
        raise OptionError(f"--methods {args.methods!r} is in no name of: {names}")
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"argument --output: {error}") from error
    deadline = time.monotonic() + 60 * args.minutes
    session = Session(args.output, size, args.quick, _records(args, size), deadline)
    session.sweep(chosen)
    for name in args.models:
        session.time(chosen, WORKLOADS[name])
    session.report()
    if session.is_late():
        console.print("Time is up; --resume goes on.")
    if args.readme is not None:
        write_readme(args.readme, readme_table(session.records))
    return 0


def _records(args: Namespace, size: Size) -> Records:
    file = args.output / "bench.json"
    if args.resume and file.exists():
        return Records.load(file)
    return Records(images=size.images)


@dataclass(frozen=True)
class Session:
    """Adds to the records what they lack, and writes them."""

    output: Path
    size: Size
    quick: bool
    records: Records
    deadline: float

    def sweep(self, methods: Sequence[Method]) -> None:
        """The images of every setting on the bundled model."""
        missing = [
            (method, setting)
            for method in methods
            for setting in method.sweep[: method.quick if self.quick else None]
            if self.records.quality_of(method.name, describe(setting)) is None
        ]
        if not missing or self.is_late():
            return
        size = self.size
        path = self.output / "classifier.safetensors"
        judge = Judge(
            GLYPH.draw(plain(GLYPH.make()), size.images, STEPS),
            load_classifier(path, *size.training),
        )
        for method, setting in missing:
            if self.is_late():
                return
            found = measure_quality(method, GLYPH, setting, judge, STEPS)
            self.records.qualities.append(found)
            text = found.error or f"NFC {found.nfc:.1f}, {found.psnr:.2f} dB"
            console.print(f"{method.name}, {found.setting}: {text}", highlight=False)
            self.save()

    def time(self, methods: Sequence[Method], workload: Workload) -> None:
        """The best settings of every method on one workload."""
        for method in methods:
            for setting, nfc in self._settings(method, workload):
                for mode in method.modes:
                    key = (workload.name, method.name, describe(setting), mode)
                    known = any(_key(timing) == key for timing in self.records.timings)
                    if known or self.is_late():
                        continue
                    self._time_one(method, workload, setting, mode, nfc)

    def _settings(
        self, method: Method, workload: Workload
    ) -> list[tuple[Mapping[str, Any], float | None]]:
        """What to time of a method, with the NFC where it is known."""
        if not workload.trained and method.on_shapes:
            return [(setting, None) for setting in method.on_shapes]
        named = {describe(setting): setting for setting in method.sweep}
        own = [q for q in self.records.qualities if q.method == method.name]
        targets = self.size.targets
        if not workload.trained:
            targets = (SHAPE_NFC,)
        return [
            (named[q.setting], q.nfc if workload.trained else None)
            for q in to_time(own, targets)
            if q.setting in named
        ]

    def _time_one(
        self,
        method: Method,
        workload: Workload,
        setting: Mapping[str, Any],
        mode: Mode,
        nfc: float | None,
    ) -> None:
        size = self.size
        timing = measure_time(
            method,
            workload,
            setting,
            mode,
            images=size.timed_images if workload.trained else 1,
            steps=STEPS,
            repeats=size.repeats if workload.trained else min(3, size.repeats),
            nfc=nfc,
        )
        self.records.timings.append(timing)
        text = timing.error or f"{timing.speedup:.2f}x, {timing.share:.0%}"
        console.print(f"{', '.join(_key(timing))}: {text}", highlight=False)
        self.save()

    def is_late(self) -> bool:
        """Whether nothing more is to be begun."""
        return time.monotonic() > self.deadline

    def save(self) -> None:
        """Write what there is so far."""
        about = asdict(environment("rfc-compile"))
        self.records.save(self.output / "bench.json", about)

    def report(self) -> None:
        """Print the tables and the verdicts; write them, and the plot."""
        tables = grids(self.records)
        lines = [str(v) for v in verdicts(self.records, self.size.targets)]
        for table in tables:
            table.show()
        console.print("\n".join(lines), highlight=False)
        page = [
            "# Every method on the same models\n",
            f"{environment('rfc-compile')}\n",
            _INTRODUCTION.format(
                images=self.records.images, tried=_settings_tried(self.records)
            ),
            "## Verdicts\n",
            "\n".join(f"- {line}" for line in lines) + "\n",
            *(table.markdown() for table in tables),
        ]
        replace_file(self.output / "bench.md", "\n".join(page))
        if self.records.timings_of(GLYPH.name):
            save_plot(self.output / "bench.png", self.records)
        self.save()


def _settings_tried(records: Records) -> str:
    counts = Counter(quality.method for quality in records.qualities)
    return "; ".join(f"{count} of {name}" for name, count in counts.items())


def _key(timing: Timing) -> tuple[str, ...]:
    return timing.workload, timing.method, timing.setting, timing.mode


_INTRODUCTION: Final = """\
PSNR, SSIM and the Frechet distance (in the 16 features of a small classifier) compare
{images} images, 50 DDIM steps at guidance 2, with the uncached ones of the same noise.
Times are medians (smallest to largest) of runs that take turns with the uncached model
under inductor in the same process, one setting at a time. NFC is the blocks' work in
linear layers, in full forwards. Extra memory is what is kept between steps. Compile
time is the first run less a later one, with inductor's caches on disk as they were.
Weights of DiT-B and MM-DiT are random: only costs are measured on them. Settings
tried: {tried}.
"""
