"""What `rfc-compile demo` draws and prints. Needs the extra `demo`.

Each setting compiles its own model and draws the images several times: the first run
compiles, the fastest of the others is the time shown.
"""

import math
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
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
from torch import Tensor

from rfc_compile.errors import OptionError
from rfc_compile.report.statistics import Statistics, stats
from rfc_compile.report.statistics_plot import statistics_figure
from rfc_compile.runtime.run_boundaries import trajectory
from rfc_compile.schedules.decision import Decision
from rfc_compile.tools.measure import glyph_dit
from rfc_compile.tools.measure.image_grid import save_comparison
from rfc_compile.tools.measure.metrics import psnr

_TIMED_RUNS: Final = 3


@dataclass(frozen=True)
class _Drawing:
    """The images of one setting and what they cost."""

    label: str
    images: Tensor
    """(B, C, H, W) in [-1, 1], on the CPU."""
    first_seconds: float
    """The first run, which compiles."""
    seconds: float
    """The fastest of the runs after it."""
    nfc: int
    decisions: tuple[Decision, ...] = ()
    """Of every call of the model; none without caching."""


def draw_all(args: Namespace) -> None:
    """Draws, prints and saves.

    Raises:
        OptionError: the output folder cannot be made.
    """
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"argument --output: {error}") from error
    console = Console()
    with _progress_bar(console) as progress:
        uncached = _draw(args, None, progress)
        cached = [_draw(args, tolerance, progress) for tolerance in args.tolerances]
    console.print(_table(args, uncached, cached))
    compiling = ", ".join(f"{d.first_seconds:.1f}" for d in (uncached, *cached))
    console.print(
        f"Times are the fastest of {_TIMED_RUNS} runs; compiling is not in them."
    )
    console.print(f"The first runs, which compile, took {compiling} s.", soft_wrap=True)
    _save_figures(args, uncached, cached)
    console.print(f"Pictures are in {args.output}.", soft_wrap=True)


def _draw(args: Namespace, tolerance: float | None, progress: Progress) -> _Drawing:
    """Draws the images at `tolerance`, or without caching when it is None."""
    torch.compiler.reset()
    if tolerance is None:
        label, backend, options = "uncached", args.inner, None
    else:
        label, backend = f"tolerance {tolerance:g}", "rfc"
        options = {"tolerance": tolerance, "inner": args.inner}
    model = glyph_dit.load_glyph_dit().to(glyph_dit.default_device())
    compiled = torch.compile(model, backend=backend, options=options)
    calls = glyph_dit.count_calls(args.scheduler, args.steps)
    task = progress.add_task(f"{label}: compile", total=(1 + _TIMED_RUNS) * calls)

    decisions: list[Decision] = []

    def advance(done: int, total: int) -> None:
        progress.advance(task)
        if done == 1:
            decisions.clear()
        # To the backend a run of large steps is several trajectories; gather them all.
        decisions.extend(stats(model).decisions[-1:])

    _, first_seconds = _sample(args, compiled, advance)
    progress.update(task, description=f"{label}: draw")
    runs = [_sample(args, compiled, advance) for _ in range(_TIMED_RUNS)]
    images, seconds = min(runs, key=itemgetter(1))
    progress.update(task, description=label)
    if tolerance is None:
        return _Drawing(label, images, first_seconds, seconds, calls)
    counted = tuple(replace(d, step=step) for step, d in enumerate(decisions))
    nfc = sum(decision.full for decision in counted)
    return _Drawing(label, images, first_seconds, seconds, nfc, counted)


def _sample(
    args: Namespace, model: glyph_dit.Denoiser, progress: Callable[[int, int], None]
) -> tuple[Tensor, float]:
    """Draws the images once; returns them on the CPU, and the seconds it took."""
    labels = torch.arange(args.images, device=glyph_dit.default_device())
    labels %= glyph_dit.NUM_CLASSES
    calls = glyph_dit.count_calls(args.scheduler, args.steps)
    start = time.perf_counter()
    with trajectory("demo", num_steps=calls):
        images = glyph_dit.sample(
            model,
            labels=labels,
            seed=args.seed,
            scheduler=args.scheduler,
            steps=args.steps,
            guidance=args.guidance,
            progress=progress,
        ).cpu()
    return images, time.perf_counter() - start


def _table(args: Namespace, uncached: _Drawing, cached: Sequence[_Drawing]) -> Table:
    table = Table(title=_title(args))
    table.add_column("setting")
    for column in ("NFC", "time", "speed-up", "PSNR mean", "PSNR min"):
        table.add_column(column, justify="right")
    for drawing in (uncached, *cached):
        quality = psnr(drawing.images, uncached.images)
        table.add_row(
            drawing.label,
            str(drawing.nfc),
            f"{drawing.seconds:.2f} s",
            f"{uncached.seconds / drawing.seconds:.2f}x",
            _decibels(quality.mean()),
            _decibels(quality.min()),
        )
    return table


def _title(args: Namespace) -> str:
    return (
        f"{args.images} images, {args.steps} steps of {args.scheduler}, "
        f"guidance {args.guidance:g}, on {args.inner}"
    )


def _decibels(value: Tensor) -> str:
    return "identical" if math.isinf(value) else f"{value:.1f} dB"


def _save_figures(
    args: Namespace, uncached: _Drawing, cached: Sequence[_Drawing]
) -> None:
    title = _title(args)
    images = {f"{d.label}\n{d.nfc} full steps": d.images for d in cached}
    save_comparison(args.output / "images.png", uncached.images, images, title)
    for drawing in cached:
        name = drawing.label.replace(" ", "_")
        found = Statistics(
            nfc=drawing.nfc, steps=len(drawing.decisions), decisions=drawing.decisions
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
