"""What ``explain(model).plot()`` and `rfc-compile inspect --graph` draw.

Needs matplotlib. Figures are made without pyplot: nothing is shown or kept open,
``figure.savefig`` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import StrMethodFormatter

from rfc_compile.graph_report import RegionInfo
from rfc_compile.passes.analysis.streams import Streams
from rfc_compile.report.explain import Explanation
from rfc_compile.report.numbers import counted
from rfc_compile.report.region_errors import GraphMap

_ROW: Final = 0.19
_MOST_ROWS: Final = 64
_LABEL_CHARACTERS: Final = 62
_NOTE_CHARACTERS: Final = 100
_MOST_NOTES: Final = 12
_UNKNOWN: Final = (0.92, 0.92, 0.92, 1.0)
_DARK: Final = 1.2
"""Sum of red, green and blue below which text is white."""

_Values = Mapping[tuple[int, str], float]
"""Of the regions that have one, by ``_key``."""


def explanation_figure(found: Explanation, title: str = "") -> Figure:
    """The residual streams with their regions, coloured by FLOPs saved and by error.

    The second panel is left out where no error is known. Below stands what is refused.
    """
    maps = found.maps
    every = [(one, region) for one in maps for region in one.regions]
    known = {
        _key(one, region): value
        for one, region in every
        if (value := one.errors.get(region.name)) is not None
    }
    notes = _notes(found)
    panels = 2 if any(value > 0 for value in known.values()) else 1
    figure = _page(len(every), panels, len(notes))
    text = f"{counted(len(every), 'region')}, {found.coverage:.1%} of the FLOPs"
    figure.suptitle(f"{title}: {text}" if title else text, fontsize=11)
    saved, *erring = figure.subplots(1, panels, squeeze=False)[0]
    cached = any(one.cached for one in maps)
    label = f"FLOPs saved, {'mean of the calls' if cached else 'by a cached step'}"
    greens, reds = (
        ScalarMappable(Normalize(), "Greens"),
        ScalarMappable(LogNorm(), "Reds"),
    )
    _draw_map(saved, maps, _shares(found), label, greens, ".1%")
    for ax in erring:
        _draw_map(ax, maps, known, "relative prediction error", reds, ".2g")
    _draw_legend(saved, maps)
    if notes:
        figure.supxlabel("\n".join(notes), fontsize=7, x=0.02, ha="left")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write it in the format of the file's suffix; text in an SVG stays text."""
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(path, dpi=160)


def _page(regions: int, panels: int, notes: int) -> Figure:
    rows = min(max(regions, 4), _MOST_ROWS)
    columns = -(-regions // _MOST_ROWS) or 1
    size = (5.2 * panels * columns, 2.2 + _ROW * rows + 0.13 * notes)
    return Figure(figsize=size, layout="constrained")


def _notes(found: Explanation) -> list[str]:
    """What is not cached and why, one line each."""
    lines = [
        *(f"refused: {item.candidate}: {item.reason}" for item in found.refused),
        *(f"uncached: {reason}" for reason in found.uncached_reasons),
        *(f"graph break: {reason}" for reason in found.graph_breaks),
    ]
    short = [_shortened(line) for line in lines[:_MOST_NOTES]]
    more = len(lines) - len(short)
    return [*short, f"and {more} more"] if more else short


def _shortened(line: str) -> str:
    line = " ".join(line.split())
    if len(line) <= _NOTE_CHARACTERS:
        return line
    return f"{line[: _NOTE_CHARACTERS - 3]}..."


def _key(one: GraphMap, region: RegionInfo) -> tuple[int, str]:
    return id(one), region.name


def _shares(found: Explanation) -> _Values:
    """Of each region the share of the forward's FLOPs that is saved, 0 to 1."""
    inside = sum(region.flops for region in found.regions)
    total = inside / found.coverage if found.coverage else 1.0
    return {
        _key(one, region): region.flops * (one.cached or 1.0) / total
        for one in found.maps
        for region in one.regions
    }


def _draw_map(
    ax: Axes,
    maps: Sequence[GraphMap],
    values: _Values,
    label: str,
    scale: ScalarMappable,
    form: str,
) -> None:
    """One column of rows for every ``_MOST_ROWS`` regions, the streams to the left."""
    lanes = [
        (one, region, lane)
        for one in maps
        for region, lane in zip(
            one.regions,
            _find_lanes(one.streams, [r.name for r in one.regions]),
            strict=True,
        )
    ]
    ax.set_axis_off()
    if not lanes:
        ax.set_title("no region", fontsize=9)
        return
    _fit(scale, values)
    ticks = StrMethodFormatter(f"{{x:{form}}}")
    bar = ax.figure.colorbar(scale, ax=ax, location="bottom", aspect=40, format=ticks)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    streams = max(len(one.streams.found) for one in maps)
    width = streams + 1 + _LABEL_CHARACTERS * 0.2
    for i, (one, region, lane) in enumerate(lanes):
        left, y = (i // _MOST_ROWS) * (width + 1), -(i % _MOST_ROWS)
        value = values.get(_key(one, region))
        _draw_lane(ax, lane, left, y, streams)
        text = _label(region) if value is None else f"{_label(region)}  {value:{form}}"
        fill = _UNKNOWN if value is None else tuple(scale.to_rgba(np.array(value)))
        box = Rectangle((left + streams, y - 0.42), width - streams, 0.84)
        box.set(facecolor=fill, edgecolor="0.6")
        ax.add_patch(box)
        _write(ax, left + streams, y, text, fill)
    columns = -(-len(lanes) // _MOST_ROWS)
    ax.set_xlim(-1, columns * (width + 1))
    ax.set_ylim(-min(len(lanes), _MOST_ROWS), 1)


def _fit(scale: ScalarMappable, values: _Values) -> None:
    """The colours reach from the least value, or 0, to the largest."""
    positive = [value for value in values.values() if value > 0] or [1.0]
    least = min(positive) if isinstance(scale.norm, LogNorm) else 0.0
    scale.set_clim(least, max(positive))


def _write(ax: Axes, x: float, y: float, text: str, fill: Sequence[float]) -> None:
    colour = "white" if sum(fill[:3]) < _DARK else "black"
    ax.text(x, y, text, fontsize=6.5, va="center", color=colour)


def _draw_lane(ax: Axes, lane: _Lane, left: float, y: float, streams: int) -> None:
    for i in lane.passing:
        ax.plot([left + i] * 2, [y - 0.5, y + 0.5], color=f"C{i % 10}", linewidth=1.5)
    for ending, into in lane.joined:
        ax.plot([left + ending, left + into], [y + 0.5] * 2, color=f"C{ending % 10}")
    if lane.added:
        ends = [left + lane.added[0], left + streams]
        ax.plot(ends, [y, y], color="0.2", linewidth=0.8)
    ax.plot([left + i for i in lane.added], [y] * len(lane.added), ".", color="0.2")


def _draw_legend(ax: Axes, maps: Sequence[GraphMap]) -> None:
    """The colours of the streams, by the inputs that they start from."""
    names = dict.fromkeys(
        (i, stream.name) for one in maps for i, stream in enumerate(one.streams.found)
    )
    lines = [
        Line2D([], [], color=f"C{i % 10}", label=f"stream of {_shortened(name)}")
        for i, name in names
    ]
    if lines:
        legend = ax.legend(handles=lines, loc="lower left", fontsize=7, frameon=False)
        legend.set_bbox_to_anchor((0, 1))


def _label(region: RegionInfo) -> str:
    text = f" {region.module} ({region.kind})"
    if len(text) > _LABEL_CHARACTERS:
        text = f" ...{text[len(text) - _LABEL_CHARACTERS + 4 :]}"
    return text


@dataclass(frozen=True)
class _Lane:
    """The streams next to one region, in a drawing with a row for each region.

    Attributes:
        passing: indices of the streams that pass it.
        added: of those that it is added to.
        joined: pairs of a stream that ends here and the one it becomes a part of.
    """

    passing: tuple[int, ...]
    added: tuple[int, ...]
    joined: tuple[tuple[int, int], ...]


def _find_lanes(streams: Streams, regions: Sequence[str]) -> list[_Lane]:
    """The lane of each of these regions, by name, from top to bottom."""
    added = [streams.of_region[name] for name in regions]
    first = [_first(i, added) for i in range(len(streams.found))]
    last = [
        len(added) - 1 - _first(i, added[::-1])
        if stream.into is None
        else first[stream.into] - 1
        for i, stream in enumerate(streams.found)
    ]
    ends = list(enumerate(zip(first, last, strict=True)))
    return [
        _Lane(
            passing=tuple(i for i, (a, b) in ends if a <= row <= max(a, b)),
            added=added[row],
            joined=tuple(
                (i, stream.into)
                for i, stream in enumerate(streams.found)
                if stream.into is not None and first[stream.into] == row
            ),
        )
        for row in range(len(added))
    ]


def _first(stream: int, added: Sequence[tuple[int, ...]]) -> int:
    """The first row that is added to the stream."""
    return next((row for row, ids in enumerate(added) if stream in ids), 0)
