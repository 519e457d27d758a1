"""What `rfc-compile demo` draws and prints. Needs the extra `demo`.

Each setting compiles its own model. Then all draw the images in turn, several times, so
that a machine that grows slower slows all: shown are medians, of speed-ups too.
"""

from __future__ import annotations

import math
import statistics
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from torch import Tensor, nn

from rfc_compile.dynamo_frames import recompile_limit_of
from rfc_compile.io.files import make_folder
from rfc_compile.report.statistics import Statistics
from rfc_compile.report.statistics_plot import statistics_figure
from rfc_compile.runtime.run_boundaries import trajectory
from rfc_compile.tools.measure.emoji_flux import EMOJI_FLUX
from rfc_compile.tools.measure.environment import Grid
from rfc_compile.tools.measure.glyph_dit import default_device
from rfc_compile.tools.measure.image_grid import save_comparison
from rfc_compile.tools.measure.metrics import psnr
from rfc_compile.tools.measure.target import Target
from rfc_compile.tools.measure.terminal import console, show
from rfc_compile.tools.measure.trial import Run, compile_model, draw_cached, elapsed

_TIMED_RUNS: Final = 5
_EXAMPLES: Final = 8


@dataclass
class _Drawing:
    """One setting: its model, the last run, and the seconds of all runs."""

    label: str
    model: nn.Module
    run: Run = field(init=False)
    seconds: list[float] = field(default_factory=list)
    """The first run compiles."""

    @property
    def timed(self) -> list[float]:
        """The runs that do not compile."""
        return self.seconds[1:]

    def draw(self, target: Target, seed: int) -> None:
        """Draw the images once more."""

        def run() -> None:
            self.run = draw_cached(target, self.model, seed)

        self.seconds.append(elapsed(run))

    def faster_than(self, uncached: _Drawing) -> list[float]:
        """The speed-up in every turn, from the least to the most."""
        turns = zip(uncached.timed, self.timed, strict=True)
        return sorted(slow / fast for slow, fast in turns)


def draw_all(args: Namespace) -> None:
    """Draws, prints and saves."""
    target = _target(args)
    make_folder(args.output, "--output")
    torch.compiler.reset()
    settings = [(f"tolerance {x:g}", {"tolerance": x}) for x in args.tolerances]
    with _progress_bar() as progress, recompile_limit_of(2 + 2 * len(settings)):
        drawings = [
            _Drawing(label, compile_model(_network(), args.inner, options))
            for label, options in (("uncached", None), *settings)
        ]
        calls = len(drawings) * EMOJI_FLUX.count_calls(args.scheduler, args.steps)
        for turn in range(1 + _TIMED_RUNS):
            name = f"turn {turn} of {_TIMED_RUNS}" if turn else "compile"
            task = progress.add_task(name, total=calls)
            for drawing in drawings:
                with drawing.model.register_forward_hook(
                    lambda *_, task=task: progress.advance(task)
                ):
                    drawing.draw(target, args.seed)
    uncached, *cached = drawings
    title = f"{target.name}, {args.steps} steps, on {args.inner}"
    show(_table(title, uncached, cached))
    compiling = ", ".join(f"{drawing.seconds[0]:.1f}" for drawing in drawings)
    console.print(
        f"Medians of {_TIMED_RUNS} turns, the least and the most in brackets; "
        "compiling is not in them.\n"
        f"The first runs, which compile, took {compiling} s.",
        soft_wrap=True,
    )
    _save_figures(args, title, uncached, cached)
    console.print(f"Pictures are in {args.output}.", soft_wrap=True)


def _network() -> nn.Module:
    return EMOJI_FLUX.load().to(default_device())


def _target(args: Namespace) -> Target:
    """Some prompts, and how they are sampled."""
    given = args.prompts or EMOJI_FLUX.conditions(_EXAMPLES)
    prompts = [given[i % len(given)] for i in range(args.images or len(given))]
    EMOJI_FLUX.encode(prompts)  # raises for a word that it does not know
    guidance = EMOJI_FLUX.guidance if args.guidance is None else args.guidance
    calls = EMOJI_FLUX.count_calls(args.scheduler, args.steps)

    def draw(model: nn.Module, seed: int) -> Tensor:
        with trajectory("demo", num_steps=calls):
            return EMOJI_FLUX.sample(
                model,
                prompts,
                seed=seed,
                scheduler=args.scheduler,
                steps=args.steps,
                guidance=guidance,
                device=default_device(),
            )

    name = f"{len(prompts)} images of {EMOJI_FLUX.name}, {args.scheduler}"
    return Target(f"{name}, guidance {guidance:g}", _network(), draw)


def _table(title: str, uncached: _Drawing, cached: Sequence[_Drawing]) -> Grid:
    rows = []
    for drawing in (uncached, *cached):
        quality = psnr(drawing.run.images, uncached.run.images)
        faster = drawing.faster_than(uncached)
        spread = f" [{faster[0]:.2f}, {faster[-1]:.2f}]"
        rows.append(
            [
                drawing.label,
                f"{drawing.run.nfc:g}",
                f"{statistics.median(drawing.timed):.2f} s",
                f"{statistics.median(faster):.2f}x"
                + ("" if drawing is uncached else spread),
                _decibels(quality.mean()),
                _decibels(quality.min()),
            ]
        )
    header = ["setting", "NFC", "time", "speed-up", "PSNR mean", "PSNR min"]
    return Grid(title, header, rows)


def _decibels(value: Tensor) -> str:
    return "identical" if math.isinf(value) else f"{value:.1f} dB"


def _save_figures(
    args: Namespace, title: str, uncached: _Drawing, cached: Sequence[_Drawing]
) -> None:
    images = {f"{d.label}\n{d.run.nfc:g} full steps": d.run.images for d in cached}
    save_comparison(args.output / "images.png", uncached.run.images, images, title)
    for drawing in cached:
        # To the backend a run of large steps is several trajectories, each from 0.
        made = [replace(d, step=i) for i, d in enumerate(drawing.run.decisions)]
        nfc = sum(decision.full for decision in made)
        found = Statistics(nfc=nfc, steps=len(made), decisions=tuple(made))
        figure = statistics_figure(found, drawing.label)
        name = drawing.label.replace(" ", "_")
        figure.savefig(args.output / f"{name}.png", dpi=160)


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
