"""What ``stats(model).plot()`` and ``explain(model).plot()`` draw. Needs matplotlib.

Figures are made without pyplot: nothing is shown or kept open, ``figure.savefig``
writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rfc_compile.graph_report import RegionInfo
from rfc_compile.report.explain import Explanation
from rfc_compile.report.lanes import Lane, find_lanes
from rfc_compile.report.region_errors import GraphMap

_ROW: Final = 0.19
_MOST_ROWS: Final = 64
_LABEL_CHARACTERS: Final = 44
_UNKNOWN: Final = (0.92, 0.92, 0.92, 1.0)
_DARK: Final = 1.2
"""Sum of red, green and blue below which text is white."""


def explanation_figure(
    found: Explanation,
    title: str = "",
    errors: Mapping[str, float] | None = None,
) -> Figure:
    """The residual streams with their regions, coloured by FLOPs saved and by error.

    Args:
        found: what ``explain`` gave.
        title: stands above.
        errors: relative prediction error of each region, by name, in place of those
            that ``found`` knows; as ``rfc-compile analyse`` measures them.
    """
    maps = found.maps
    count = sum(len(one.regions) for one in maps)
    rows = min(max(count, 4), _MOST_ROWS)
    columns = -(-count // _MOST_ROWS) or 1
    size = (4.8 * 2 * columns, 1.3 + _ROW * rows)
    figure = Figure(figsize=size, layout="constrained")
    told = f"{count} regions, {found.coverage:.1%} of the FLOPs"
    figure.suptitle(f"{title}: {told}" if title else told, fontsize=11)
    saved, erring = figure.subplots(1, 2, squeeze=False)[0]
    every = [(one, region) for one in maps for region in one.regions]
    flops = {_key(one, r): r.flops * _share(one) / 1e9 for one, r in every}
    cached = any(one.cached for one in maps)
    label = "GFLOP saved, mean of the calls" if cached else "GFLOP a cached step saves"
    _draw_map(saved, maps, flops, label, "Greens", Normalize(0.0))
    known = {
        _key(one, region): value
        for one, region in every
        if (value := (errors or one.errors).get(region.name)) is not None
    }
    label = "relative prediction error"
    _draw_map(erring, maps, known, label, "Reds", LogNorm())
    return figure


def _key(one: GraphMap, region: RegionInfo) -> tuple[int, str]:
    return id(one), region.name


def _share(one: GraphMap) -> float:
    """The share of a region's FLOPs that is saved: that of the calls cached."""
    return one.cached or 1.0


def _draw_map(
    ax: Axes,
    maps: Sequence[GraphMap],
    values: Mapping[tuple[int, str], float],
    label: str,
    colours: str,
    norm: Normalize,
) -> None:
    """One column of rows for every ``_MOST_ROWS`` regions, the streams to the left."""
    lanes = [
        (one, region, lane)
        for one in maps
        for region, lane in zip(
            one.regions,
            find_lanes(one.streams, [r.name for r in one.regions]),
            strict=True,
        )
    ]
    ax.set_axis_off()
    if not lanes:
        ax.set_title("no region", fontsize=9)
        return
    scale = ScalarMappable(norm, colours)
    positive = [value for value in values.values() if value > 0]
    if not positive:
        ax.set_title(f"{label}: not known", fontsize=9)
    else:
        scale.set_clim(min(positive) if isinstance(norm, LogNorm) else 0, max(positive))
        ax.figure.colorbar(scale, ax=ax, label=label, shrink=0.6)
    streams = max(len(one.streams.found) for one in maps)
    width = streams + 1 + _LABEL_CHARACTERS * 0.28
    for i, (one, region, lane) in enumerate(lanes):
        left, y = (i // _MOST_ROWS) * (width + 1), -(i % _MOST_ROWS)
        value = values.get(_key(one, region))
        fill = (
            scale.to_rgba(np.array(value))
            if positive and value is not None
            else _UNKNOWN
        )
        _draw_lane(ax, lane, left, y, streams)
        box = (left + streams, y - 0.42)
        ax.add_patch(
            Rectangle(box, width - streams, 0.84, facecolor=fill, edgecolor="0.6")
        )
        dark = positive and value is not None and sum(fill[:3]) < _DARK
        colour = "white" if dark else "black"
        ax.text(
            left + streams,
            y,
            _label(region, value),
            fontsize=6.5,
            va="center",
            color=colour,
        )
    columns = -(-len(lanes) // _MOST_ROWS)
    ax.set_xlim(-1, columns * (width + 1))
    ax.set_ylim(-min(len(lanes), _MOST_ROWS), 1)


def _draw_lane(ax: Axes, lane: Lane, left: float, y: float, streams: int) -> None:
    for i in lane.passing:
        ax.plot([left + i] * 2, [y - 0.5, y + 0.5], color=f"C{i % 10}", linewidth=1.5)
    for ending, into in lane.joined:
        ax.plot([left + ending, left + into], [y + 0.5] * 2, color=f"C{ending % 10}")
    if lane.added:
        ends = [left + lane.added[0], left + streams]
        ax.plot(ends, [y, y], color="0.2", linewidth=0.8)
    ax.plot([left + i for i in lane.added], [y] * len(lane.added), ".", color="0.2")


def _label(region: RegionInfo, value: float | None) -> str:
    text = f" {region.module} ({region.kind})"
    if len(text) > _LABEL_CHARACTERS:
        text = f" ...{text[len(text) - _LABEL_CHARACTERS + 4 :]}"
    return text if value is None else f"{text}  {value:.2g}"
