"""The pictures of a study, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from rfc_compile.report.statistics import Statistics
from rfc_compile.report.statistics_plot import statistics_figure
from rfc_compile.tools.measure.image_grid import as_png, save_comparison
from rfc_compile.tools.measure.pareto import front
from rfc_compile.tools.tuning.goal import speedup
from rfc_compile.tools.tuning.study import Study

_MOST_IMAGES: Final = 6


def pareto_plot(study: Study) -> bytes:
    """The finals by speed-up and quality; the star is the best."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    ax = figure.subplots()
    points = [
        (final, (speedup(final.measured), final.measured.psnr))
        for final in study.search.measured
    ]
    along = [point for _, point in front(points)]
    ax.plot(*zip(*along, strict=True), color="0.7", zorder=0)
    for number, (final, (x, y)) in enumerate(points, 1):
        best = final is study.search.best
        ax.plot(x, y, "*" if best else "o", markersize=14 if best else 7)
        ax.annotate(str(number), (x, y), (5, 5), textcoords="offset points")
    goal = study.goal
    if goal.target_speedup is not None:
        ax.axvline(goal.target_speedup, linestyle="--", color="tab:red", linewidth=1)
    if goal.min_psnr is not None:
        ax.axhline(goal.min_psnr, linestyle="--", color="tab:red", linewidth=1)
    ax.set(xlabel="speed-up over the uncached model", ylabel="PSNR in dB")
    ax.set_title("finals, on seeds of their own; the star is the best", fontsize=10)
    ax.grid(alpha=0.3)
    return as_png(figure)


def images_plot(study: Study) -> bytes | None:
    """The uncached images, the finals' and the differences; None for latents."""
    reference = _as_pictures(list(study.reference.images.values()))
    if reference is None:
        return None
    cached = {}
    for number, final in enumerate(study.search.measured, 1):
        drawn = _as_pictures([run.images for run in final.runs])
        assert drawn is not None
        cached[f"{number}: {final.kind}\nNFC {final.measured.nfc:.1f}"] = drawn
    file = io.BytesIO()
    save_comparison(file, reference, cached, "")
    return file.getvalue()


def _as_pictures(images: Sequence[Tensor]) -> Tensor | None:
    """The first few as (B, C, H, W); a video's first frame; None if they are none."""
    each = torch.cat([x[:, 0] if x.ndim == 5 else x for x in images])[:_MOST_IMAGES]
    if each.ndim != 4 or each.shape[1] not in (1, 3) or each.abs().max() > 1:
        return None
    return each


def steps_plot(study: Study) -> bytes:
    """What the best one's schedule saw and decided at every step of one run."""
    best = study.search.best
    own = best.runs[0].decisions
    full = sum(decision.full for decision in own)
    steps = 1 + max((decision.step for decision in own), default=-1)
    found = Statistics(nfc=full, steps=steps, decisions=own)
    return as_png(statistics_figure(found, best.kind))


def schedules_plot(study: Study) -> bytes:
    """Which steps each final computes in full, in the first of its runs."""
    finals = study.search.measured
    figure = Figure(figsize=(9, 0.8 + 0.35 * len(finals)), layout="constrained")
    ax = figure.subplots()
    for row, final in enumerate(finals):
        own = [d for d in final.runs[0].decisions if d.branch == 0]
        full = [step for step, decision in enumerate(own) if decision.full]
        ax.eventplot(full, lineoffsets=row, linelengths=0.7, linewidths=3)
    ax.set_yticks(range(len(finals)), [str(row + 1) for row in range(len(finals))])
    ax.set(xlabel="step", ylabel="final", xlim=(-1, study.search.steps))
    ax.invert_yaxis()
    return as_png(figure)
