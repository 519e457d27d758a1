"""One run of the benchmark: what to measure, in which order, and what is written."""

import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from rfc_compile.errors import OptionError
from rfc_compile.io.files import make_folder, replace_file
from rfc_compile.tools.bench.frechet import load_classifier
from rfc_compile.tools.bench.methods import METHODS
from rfc_compile.tools.bench.methods.base import SETTINGS, Method, describe
from rfc_compile.tools.bench.plot import save_plot
from rfc_compile.tools.bench.quality import make_judge, measure_quality
from rfc_compile.tools.bench.records import (
    SHAPE_TARGETS,
    TARGETS,
    Quality,
    Records,
    Score,
    Timing,
    best_at,
    chosen,
)
from rfc_compile.tools.bench.tables import grids, readme_table, write_readme
from rfc_compile.tools.bench.timing import measure_time
from rfc_compile.tools.bench.verdicts import verdicts
from rfc_compile.tools.bench.workloads import (
    GLYPH,
    REPORT_SEED,
    SELECTION_SEED,
    STEPS,
    WORKLOADS,
    Workload,
)
from rfc_compile.tools.measure.environment import environment, page
from rfc_compile.tools.measure.terminal import console, show

SHAPE_IMAGES: Final = 2
"""In a batch of the random shapes, as guidance makes of one image."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        images: per setting, to choose by and again to report.
        targets: NFCs that settings are chosen at.
        timed_images: per timed run of the bundled model.
        training: images and steps that the classifier is trained on.
    """

    images: int
    targets: tuple[float, ...]
    timed_images: int
    repeats: int
    training: tuple[int, int]


FULL: Final = Size(20, TARGETS, 4, 5, (300, 12))
QUICK: Final = Size(2, (TARGETS[-1],), 1, 2, (50, 4))


def run_session(args: Namespace) -> int:
    """Does what `rfc-compile bench` is asked for."""
    size = QUICK if args.quick else FULL
    methods = [m for m in METHODS.values() if args.methods in m.name]
    if not methods:
        names = ", ".join(METHODS)
        raise OptionError(f"--methods {args.methods!r} is in no name of: {names}")
    make_folder(args.output, "--output")
    deadline = time.monotonic() + 60 * args.minutes
    session = Session(args.output, size, args.quick, _records(args, size), deadline)
    session.sweep(methods)
    session.compare_chosen(methods)
    if not args.no_times:
        for name in args.models:
            session.time(methods, WORKLOADS[name])
    session.report()
    if session.is_late():
        console.print("Time is up; --resume continues.")
    if args.readme is not None:
        write_readme(args.readme, readme_table(session.records))
    return 0


def _records(args: Namespace, size: Size) -> Records:
    file = args.output / "bench.json"
    if args.resume and file.exists():
        return Records.load(file).only(_present_settings())
    return Records(images=size.images)


def _present_settings() -> set[tuple[str, str]]:
    """Methods with the settings that are tried of them now."""
    return {
        (method.name, describe(setting))
        for method in METHODS.values()
        for setting in (*method.sweep, *method.on_shapes)
    }


@dataclass(frozen=True)
class Session:
    """Adds to the records what they lack, and writes them."""

    output: Path
    size: Size
    quick: bool
    records: Records
    deadline: float

    def sweep(self, methods: Sequence[Method]) -> None:
        """Every setting on the images of the selection."""
        missing = [
            (method, setting)
            for method in methods
            for setting in method.sweep[: method.quick if self.quick else None]
            if self.records.quality_of(method.name, describe(setting)) is None
        ]
        for method, setting, found in self._measured(missing, SELECTION_SEED):
            blank = Quality(method.name, describe(setting))
            self.records.qualities.append(_with(blank, "selection", found))
            self.save()

    def compare_chosen(self, methods: Sequence[Method]) -> None:
        """The chosen settings on the images that are reported."""
        missing = [
            (method, self._setting(method, quality))
            for method in methods
            for quality in chosen(
                self.records.of_method(method.name), self._targets(method)
            )
            if quality.report is None and quality.error is None
        ]
        for method, setting, found in self._measured(missing, REPORT_SEED):
            known = self.records.quality_of(method.name, describe(setting))
            assert known is not None
            place = self.records.qualities.index(known)
            self.records.qualities[place] = _with(known, "report", found)
            self.save()

    def _measured(
        self, missing: Sequence[tuple[Method, Mapping[str, Any]]], seed: int
    ) -> Iterator[tuple[Method, Mapping[str, Any], Score | str]]:
        """Scores or errors of settings, until the time is up."""
        if not missing or self.is_late():
            return
        file = self.output / "classifier.safetensors"
        classifier = load_classifier(file, *self.size.training)
        judge = make_judge(GLYPH, classifier, self.size.images, STEPS, seed)
        for method, setting in missing:
            if self.is_late():
                return
            found = measure_quality(method, GLYPH, setting, judge, STEPS)
            line = f"{method.name}, {describe(setting)}, seed {seed}: {found}"
            console.print(line, highlight=False, soft_wrap=True)
            yield method, setting, found

    def _targets(self, method: Method) -> Sequence[float]:
        return SHAPE_TARGETS if method.is_control else self.size.targets

    def _setting(self, method: Method, quality: Quality) -> Mapping[str, Any]:
        named = {describe(setting): setting for setting in method.sweep}
        return named[quality.setting]

    def time(self, methods: Sequence[Method], workload: Workload) -> None:
        """The chosen settings of every method on one workload."""
        size = self.size
        known = set(map(_key, self.records.timings))
        for method in methods:
            for setting, nfc in self._settings(method, workload):
                for mode in method.modes:
                    key = (workload.name, method.name, describe(setting), mode)
                    if key in known or self.is_late():
                        continue
                    timing = measure_time(
                        method,
                        workload,
                        setting,
                        mode,
                        images=size.timed_images if workload.trained else SHAPE_IMAGES,
                        steps=STEPS,
                        repeats=size.repeats
                        if workload.trained
                        else min(3, size.repeats),
                        nfc=nfc,
                    )
                    self._add(timing)

    def _add(self, timing: Timing) -> None:
        self.records.timings.append(timing)
        text = timing.error or f"{timing.speedup:.2f}x, spread {timing.spread:.0%}"
        console.print(f"{', '.join(_key(timing))}: {text}", highlight=False)
        self.save()

    def _settings(
        self, method: Method, workload: Workload
    ) -> list[tuple[Mapping[str, Any], float | None]]:
        """What to time of a method, with the NFC where it is known.

        On the random shapes only what has an NFC of 14 on the bundled model.
        """
        own = self.records.of_method(method.name)
        if workload.trained:
            return [
                (self._setting(method, quality), quality.report.nfc)
                for quality in chosen(own, self._targets(method))
                if quality.report is not None
            ]
        if method.is_control:
            return []
        if method.on_shapes:
            return [(setting, None) for setting in method.on_shapes]
        best = [best_at(own, target) for target in SHAPE_TARGETS]
        return [(self._setting(method, q), None) for q in best if q is not None]

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
            show(table)
        console.print("\n".join(lines), highlight=False)
        counts = Counter(quality.method for quality in self.records.qualities)
        tried = "; ".join(f"{count} of {name}" for name, count in counts.items())
        introduction = _INTRODUCTION.format(
            images=self.records.images, most=SETTINGS, tried=tried
        )
        title, about = "Every method on the same models", environment("rfc-compile")
        text = page(title, about, introduction, lines, tables)
        replace_file(self.output / "bench.md", text)
        if self.records.timings_of(GLYPH.name):
            save_plot(self.output / "bench.png", self.records)
        self.save()


def _with(quality: Quality, part: str, found: Score | str) -> Quality:
    """A record with one more measurement, or with its error."""
    name = "error" if isinstance(found, str) else part
    changed: Quality = replace(quality, **{name: found})  # type: ignore[arg-type]
    return changed


def _key(timing: Timing) -> tuple[str, ...]:
    return timing.workload, timing.method, timing.setting, timing.mode


_INTRODUCTION: Final = """\
PSNR, SSIM and the Frechet distance (in the 16 features of a small classifier) compare
{images} images, 50 DDIM steps at guidance 2, with the uncached ones of the same noise.
Every method's settings are chosen on the images of one seed, the best PSNR with at most
each NFC, and reported on {images} images of another seed. NFC is the blocks' work in
linear layers, in full forwards. Speed-ups are medians of the ratios of runs that take
turns with the uncached model under inductor in the same process, one setting at a time;
the spread is the largest less the smallest ratio, over the median. Times are medians
(smallest to largest). Extra memory is what is kept between steps. Compile time is the
first run less a later one, with inductor's caches on disk as they were. Weights of
DiT-B and MM-DiT are random: only costs are measured on them, of what has an NFC of 14.

At most {most} settings a method; FORA's rules have only an interval. Tried: {tried}.
"""
