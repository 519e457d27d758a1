"""What `rfc-compile demo` draws and prints. Needs the extra `demo`.

Each setting compiles its own model. Then all draw the images in turn, several times, so
that a machine that grows slower slows all: shown are medians, of speed-ups too.
"""

from __future__ import annotations

import math
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from torch import Tensor, nn

from rfc_compile.dynamo_frames import recompile_limit_of
from rfc_compile.io.files import make_folder
from rfc_compile.report.statistics import Statistics, stats
from rfc_compile.report.statistics_plot import statistics_figure
from rfc_compile.runtime.run_boundaries import trajectory
from rfc_compile.schedules.decision import Decision
from rfc_compile.tools.measure.emoji_flux import EMOJI_FLUX
from rfc_compile.tools.measure.glyph_dit import default_device
from rfc_compile.tools.measure.image_grid import save_comparison
from rfc_compile.tools.measure.metrics import psnr
from rfc_compile.tools.measure.trial import compile_model

_TIMED_RUNS: Final = 5
_EXAMPLES: Final = 8


@dataclass(frozen=True)
class _Subject:
    """What is drawn: prompts, and how they are sampled."""

    prompts: Sequence[str]
    scheduler: str
    guidance: float

    @property
    def title(self) -> str:
        """All settings but the steps."""
        return (
            f"{len(self.prompts)} images of {EMOJI_FLUX.name}, {self.scheduler}, "
            f"guidance {self.guidance:g}"
        )


def _subject(args: Namespace) -> _Subject:
    given = args.prompts or EMOJI_FLUX.conditions(_EXAMPLES)
    count = args.images or len(given)
    prompts = [given[i % len(given)] for i in range(count)]
    EMOJI_FLUX.encode(prompts)  # raises for a word that it does not know
    guidance = EMOJI_FLUX.guidance if args.guidance is None else args.guidance
    return _Subject(prompts, args.scheduler, guidance)


@dataclass
class _Drawing:
    """One setting: its model, the images of its last run, and what they cost."""

    label: str
    model: nn.Module
    calls: int
    """Of the model in a run."""
    images: Tensor = field(default_factory=lambda: torch.empty(0))
    """(B, C, H, W) in [-1, 1], on the CPU."""
    seconds: list[float] = field(default_factory=list)
    """Of every run; the first one compiles."""
    decisions: list[Decision] = field(default_factory=list)
    """Of every call of the last run; none without caching."""

    @property
    def timed(self) -> list[float]:
        """The runs that do not compile."""
        return self.seconds[1:]

    @property
    def nfc(self) -> int:
        """Full calls of the last run."""
        return self.calls - sum(not decision.full for decision in self.decisions)

    def faster_than(self, uncached: _Drawing) -> list[float]:
        """The speed-up in every turn, from the least to the most."""
        turns = zip(uncached.timed, self.timed, strict=True)
        return sorted(slow / fast for slow, fast in turns)


def draw_all(args: Namespace) -> None:
    """Draws, prints and saves.

    Raises:
        OptionError: the output folder cannot be made.
    """
    subject = _subject(args)
    make_folder(args.output, "--output")
    console = Console()
    settings = [None, *args.tolerances]
    torch.compiler.reset()
    with _progress_bar(console) as progress, recompile_limit_of(2 * len(settings)):
        drawings = [_compile(args, subject, tolerance) for tolerance in settings]
        for turn in range(1 + _TIMED_RUNS):
            name = f"turn {turn} of {_TIMED_RUNS}" if turn else "compile"
            task = progress.add_task(name, total=sum(d.calls for d in drawings))
            for drawing in drawings:
                _draw(args, subject, drawing, partial(progress.advance, task))
    uncached, *cached = drawings
    title = f"{subject.title}, {args.steps} steps, on {args.inner}"
    console.print(_table(title, uncached, cached))
    compiling = ", ".join(f"{drawing.seconds[0]:.1f}" for drawing in drawings)
    console.print(
        f"Medians of {_TIMED_RUNS} turns, the least and the most in brackets; "
        "compiling is not in them.",
        soft_wrap=True,
    )
    console.print(f"The first runs, which compile, took {compiling} s.", soft_wrap=True)
    _save_figures(args, title, uncached, cached)
    console.print(f"Pictures are in {args.output}.", soft_wrap=True)


def _compile(args: Namespace, subject: _Subject, tolerance: float | None) -> _Drawing:
    """The model with a tolerance, or without caching when it is None."""
    model = EMOJI_FLUX.load().to(default_device())
    calls = EMOJI_FLUX.count_calls(subject.scheduler, args.steps)
    if tolerance is None:
        return _Drawing("uncached", compile_model(model, args.inner), calls)
    compiled = compile_model(model, args.inner, {"tolerance": tolerance})
    return _Drawing(f"tolerance {tolerance:g}", compiled, calls)


def _draw(
    args: Namespace,
    subject: _Subject,
    drawing: _Drawing,
    advance: Callable[[], None],
) -> None:
    """Draw the images once, and note the seconds and what was decided."""
    drawing.decisions.clear()

    def note(done: int, total: int) -> None:
        advance()
        # To the backend a run of large steps is several trajectories; gather them all.
        made = stats(drawing.model).decisions[-1:]
        drawing.decisions.extend(replace(d, step=done - 1) for d in made)

    start = time.perf_counter()
    with trajectory("demo", num_steps=drawing.calls):
        images = EMOJI_FLUX.sample(
            drawing.model,
            subject.prompts,
            seed=args.seed,
            scheduler=subject.scheduler,
            steps=args.steps,
            guidance=subject.guidance,
            device=default_device(),
            progress=note,
        )
    drawing.images = images.cpu()
    drawing.seconds.append(time.perf_counter() - start)


def _table(title: str, uncached: _Drawing, cached: Sequence[_Drawing]) -> Table:
    table = Table(title=title)
    table.add_column("setting")
    for column in ("NFC", "time", "speed-up", "PSNR mean", "PSNR min"):
        table.add_column(column, justify="right")
    for drawing in (uncached, *cached):
        quality = psnr(drawing.images, uncached.images)
        faster = drawing.faster_than(uncached)
        spread = (
            f" [{faster[0]:.2f}, {faster[-1]:.2f}]" if drawing is not uncached else ""
        )
        table.add_row(
            drawing.label,
            str(drawing.nfc),
            f"{statistics.median(drawing.timed):.2f} s",
            f"{statistics.median(faster):.2f}x{spread}",
            _decibels(quality.mean()),
            _decibels(quality.min()),
        )
    return table


def _decibels(value: Tensor) -> str:
    return "identical" if math.isinf(value) else f"{value:.1f} dB"


def _save_figures(
    args: Namespace, title: str, uncached: _Drawing, cached: Sequence[_Drawing]
) -> None:
    images = {f"{d.label}\n{d.nfc} full steps": d.images for d in cached}
    save_comparison(args.output / "images.png", uncached.images, images, title)
    for drawing in cached:
        name = drawing.label.replace(" ", "_")
        found = Statistics(
            nfc=drawing.nfc,
            steps=len(drawing.decisions),
            decisions=tuple(drawing.decisions),
        )
        figure = statistics_figure(found, drawing.label)
        figure.savefig(args.output / f"{name}.png", dpi=160)


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
