"""One run of the benchmark: what to measure, in which order, and what is written."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rfc_compile.bench.frechet import load_classifier
from rfc_compile.bench.methods import METHODS
from rfc_compile.bench.methods.base import Method, describe
from rfc_compile.bench.plot import save_plot
from rfc_compile.bench.quality import Judge, measure_quality
from rfc_compile.bench.records import Records
from rfc_compile.bench.report import console, environment, replace_file
from rfc_compile.bench.selection import TARGETS, to_time
from rfc_compile.bench.tables import grids, readme_table, write_readme
from rfc_compile.bench.timing import measure_time
from rfc_compile.bench.verdicts import verdicts
from rfc_compile.bench.workloads import GLYPH, WORKLOADS, Workload, plain
from rfc_compile.errors import OptionError

SHAPE_NFC: Final = 14
"""On the random shapes each method runs at its best setting with this NFC."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        images: per setting, for the images' numbers.
        steps: denoising steps.
        targets: NFCs that settings are chosen at.
        timed_images: per timed run of the bundled model; 1 on the random shapes.
        repeats: timed runs.
        training: images and steps that the classifier is trained on.

    """

    images: int
    steps: int
    targets: tuple[float, ...]
    timed_images: int
    repeats: int
    training: tuple[int, int]


FULL: Final = Size(20, 50, TARGETS, 8, 5, (300, 12))
QUICK: Final = Size(2, 50, (TARGETS[-1],), 1, 2, (50, 4))


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
    session = Session(args.output, size, args.quick, _records(args, size))
    session.sweep(chosen)
    for name in args.models:
        session.time(chosen, WORKLOADS[name])
    session.report()
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

    def sweep(self, methods: Sequence[Method]) -> None:
        """The images of every setting on the bundled model."""
        missing = [
            (method, setting)
            for method in methods
            for setting in method.sweep[: method.quick if self.quick else None]
            if self.records.quality_of(method.name, describe(setting)) is None
        ]
        if not missing:
            return
        size = self.size
        path = self.output / "classifier.safetensors"
        judge = Judge(
            GLYPH.draw(plain(GLYPH.make()), size.images, size.steps),
            load_classifier(path, *size.training),
        )
        for method, setting in missing:
            found = measure_quality(method, GLYPH, setting, judge, size.steps)
            self.records.qualities.append(found)
            text = found.error or f"NFC {found.nfc:.1f}, {found.psnr:.2f} dB"
            console.print(f"{method.name}, {found.setting}: {text}", highlight=False)
            self.save()

    def time(self, methods: Sequence[Method], workload: Workload) -> None:
        """The best settings of every method on one workload."""
        size = self.size
        targets = size.targets if workload.trained or self.quick else (SHAPE_NFC,)
        for method in methods:
            own = [q for q in self.records.qualities if q.method == method.name]
            settings = {describe(setting): setting for setting in method.sweep}
            for quality in to_time(own, targets):
                for mode in method.modes:
                    key = (workload.name, method.name, quality.setting, mode)
                    if any(_key(t) == key for t in self.records.timings):
                        continue
                    timing = measure_time(
                        method,
                        workload,
                        settings[quality.setting],
                        mode,
                        images=size.timed_images if workload.trained else 1,
                        steps=size.steps,
                        repeats=size.repeats if workload.trained else 3,
                        nfc=quality.nfc if workload.trained else None,
                    )
                    self.records.timings.append(timing)
                    text = timing.error or f"{timing.speedup:.2f}x, {timing.share:.0%}"
                    label = ", ".join(key)
                    console.print(f"{label}: {text}", highlight=False)
                    self.save()

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
            _INTRODUCTION.format(images=self.records.images),
            "## Verdicts\n",
            "\n".join(f"- {line}" for line in lines) + "\n",
            *(table.markdown() for table in tables),
        ]
        replace_file(self.output / "bench.md", "\n".join(page))
        if self.records.timings_of(GLYPH.name):
            save_plot(self.output / "bench.png", self.records)
        self.save()


def _key(timing: object) -> tuple[str, ...]:
    return tuple(
        getattr(timing, name) for name in ("workload", "method", "setting", "mode")
    )


_INTRODUCTION: Final = """\
PSNR, SSIM and the Frechet distance (in the 16 features of a small classifier) compare
{images} images, 50 DDIM steps at guidance 2, with the uncached ones of the same noise.
Times are medians (smallest to largest) of runs that take turns with the uncached model
under inductor in the same process, one setting at a time. NFC is the blocks' work in
linear layers, in full forwards. Extra memory is what is kept between steps. Compile
time is the first run less a later one, with inductor's caches on disk as they were.
Weights of DiT-B and MM-DiT are random: only costs are measured on them.
"""
