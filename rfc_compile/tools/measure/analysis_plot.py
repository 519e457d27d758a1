"""The picture of an analysis. Needs matplotlib, which the extra `demo` has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from rfc_compile.tools.measure.analysis import Analysis, Series, mean

_MOST_NAMES: Final = 40


def analysis_figure(found: Analysis) -> Figure:
    """Five panels: changes over the steps, the ratio, errors, and who is nearest.

    1. change of inputs and outputs per step: the median and middle half of the regions;
    2. for each region how far the ratio of the two is from that of the step before;
    3. error of every estimator per region, mean of the predicted steps;
    4. the same per step, mean of the regions;
    5. the estimator with the least error, for every region and predicted step.
    """
    figure = Figure(figsize=(12, 11), layout="constrained")
    sampler = f", {found.sampler}" if found.sampler else ""
    figure.suptitle(
        f"{found.target}{sampler}: {found.steps} steps, an interval of {found.interval}"
    )
    axes = figure.subplot_mosaic("ab;cd;ee")
    changes, ratio, per_region, per_step, nearest = (axes[name] for name in "abcde")
    _draw_changes(changes, [r.input_change for r in found.regions], "inputs", "C0")
    _draw_changes(changes, [r.output_change for r in found.regions], "outputs", "C1")
    changes.set(xlabel="step", ylabel="relative change", yscale="log")
    changes.legend(fontsize=8)
    places = range(len(found.regions))
    deviations = [r.ratio_deviation or math.nan for r in found.regions]
    ratio.bar(places, deviations, color="0.6")
    ratio.set(ylabel="relative deviation of the ratio", ylim=(0, None))
    for name in found.estimators:
        errors = [region.error(name) for region in found.regions]
        per_region.plot(places, _numbers(errors), ".-", linewidth=1, label=name)
        series = [region.errors[name] for region in found.regions]
        of_step = [mean(values) for values in zip(*series, strict=True)]
        known = [(s, e) for s, e in enumerate(of_step) if e is not None]
        per_step.plot(*zip(*known, strict=True), ".-", linewidth=1, label=name)
    for ax in (per_region, per_step):
        ax.set(ylabel="relative prediction error", yscale="log")
        ax.grid(axis="y", alpha=0.3)
    per_step.set(xlabel="step")
    for ax in (ratio, per_region):
        _name_regions(ax, found)
    per_region.legend(fontsize=8)
    _draw_nearest(nearest, found)
    return figure


def _draw_changes(ax: Axes, series: Sequence[Series], label: str, colour: str) -> None:
    values = np.array([_numbers(one) for one in series])
    known = ~np.isnan(values).all(0)
    steps = np.arange(values.shape[1])[known]
    low, middle, high = np.nanpercentile(values[:, known], (25, 50, 75), axis=0)
    ax.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.plot(steps, middle, color=colour, label=label)
    ax.grid(axis="y", alpha=0.3)


def _name_regions(ax: Axes, found: Analysis) -> None:
    """The modules below a panel that has a place for each region."""
    if len(found.regions) > _MOST_NAMES:
        ax.set(xlabel="region, in the order of the forward")
        return
    names = [region.module for region in found.regions]
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=6)


def _draw_nearest(ax: Axes, found: Analysis) -> None:
    """A cell for every region and step in the colour of the nearest estimator."""
    count = len(found.estimators)
    errors = np.array(
        [
            [_numbers(region.errors[name]) for name in found.estimators]
            for region in found.regions
        ]
    )
    known = ~np.isnan(errors).any(1)
    nearest = np.where(np.isnan(errors), np.inf, errors).argmin(1).astype(float)
    colours = ListedColormap([f"C{i}" for i in range(count)])
    norm = BoundaryNorm(np.arange(count + 1) - 0.5, count)
    cells = np.where(known, nearest, np.nan)
    image = ax.imshow(
        cells, cmap=colours, norm=norm, aspect="auto", interpolation="nearest"
    )
    assert ax.figure is not None
    bar = ax.figure.colorbar(image, ax=ax, ticks=range(count))
    bar.ax.set_yticklabels(found.estimators)
    ax.set(xlabel="step", title="nearest estimator")
    ax.title.set_fontsize(9)
    if len(found.regions) <= _MOST_NAMES:
        names = [region.module for region in found.regions]
        ax.set_yticks(range(len(names)), names, fontsize=6)


def _numbers(series: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in series]
