"""An SVG of the residual streams of a forward, with the regions that hang on them.

    |    |   +----------------------------------------+
    o----o---| region_000_attn  blocks.0.attn   1.2 % |
    |    |   +----------------------------------------+

One vertical line per stream, from top to bottom, then on in the next column; a region
has a dot on every stream that it is added to. Lengths are in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from rfc_compile.graph_report import GraphReport, RegionInfo
from rfc_compile.passes.analysis.streams import Streams
from rfc_compile.report.lanes import find_lanes
from rfc_compile.tools.inspection.dry_run import DryRun

_COLOURS = {
    "attention": "#a9c8ec",
    "mlp": "#f7cf9b",
    "attention+mlp": "#b5dcb0",
    "conv": "#d3bfe6",
}
_INK, _FAINT, _PAPER = "#222222", "#8a8a8a", "#ffffff"
_STREAMS = ("#1f5fa8", "#c2571a", "#2f7d3a", "#7a4da0", "#8c6d1f", "#5f5f5f")

_ROW = 24
_BOX = 18
_LANE = 18
_CHARACTER = 6.6
_FONT = 11
_MARGIN = 20
_GAP = 36
_HEADER = 64
_ROWS_PER_COLUMN = 48
_LONGEST = 64
"""Characters of a label; the whole text is in its tooltip."""


@dataclass(frozen=True)
class _Row:
    """One line of the picture.

    ``lanes`` are the streams that pass it; ``added`` those that it is added to, and
    ``joined`` pairs of a stream that ends here and the one it becomes a part of.
    """

    text: str
    tooltip: str
    fill: str | None
    refused: bool = False
    colour: str = _FAINT
    lanes: tuple[int, ...] = ()
    added: tuple[int, ...] = ()
    joined: tuple[tuple[int, int], ...] = ()


def save_picture(path: Path, run: DryRun, title: str) -> None:
    """Write the picture.

    Raises:
        OSError: the file cannot be written.

    """
    rows = list(_rows(run))
    length = max([len(row.text) for row in rows], default=20)
    lanes = max([lane + 1 for row in rows for lane in row.lanes], default=1)
    box = length * _CHARACTER + 16
    column = lanes * _LANE + box + _GAP
    count = -(-len(rows) // _ROWS_PER_COLUMN) or 1
    per_column = -(-len(rows) // count) if rows else 1
    width = max(2 * _MARGIN + count * column, 660)
    height = _HEADER + per_column * _ROW + _MARGIN
    svg = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": f"{width:g}",
            "height": f"{height:g}",
            "viewBox": f"0 0 {width:g} {height:g}",
            "font-family": "DejaVu Sans Mono, Menlo, Consolas, monospace",
            "font-size": str(_FONT),
        },
    )
    _add(svg, "rect", width=width, height=height, fill=_PAPER)
    _add_text(svg, _MARGIN, 24, title, size=14)
    _draw_legend(svg)
    for i, row in enumerate(rows):
        x = _MARGIN + (i // per_column) * column
        y = _HEADER + (i % per_column) * _ROW
        _draw_row(svg, row, x, y, lanes * _LANE, box)
    path.write_text(ET.tostring(svg, encoding="unicode") + "\n", encoding="utf-8")


def _rows(run: DryRun) -> Iterator[_Row]:
    total = sum(report.flops for report in run.reports)
    several = len(run.reports) > 1
    for i, (report, streams) in enumerate(zip(run.reports, run.streams, strict=True)):
        if several:
            yield _heading(f"graph {i + 1} of {len(run.reports)}", report)
        if streams is not None:
            for j, stream in enumerate(streams.found):
                text = f"stream {j + 1}: {stream.name}"
                yield _Row(_short(text), text, None, colour=_of_stream(j))
            yield from _region_rows(report.regions, streams, total)
        for reason in (*report.fallbacks, *report.notes):
            yield _note(reason)
        for item in report.refused:
            text = f"{item.candidate or 'the forward'}: {item.reason}"
            yield _Row(_short(text), text, None, refused=True)


def _heading(text: str, report: GraphReport) -> _Row:
    after = f", ended by: {report.graph_break}" if report.graph_break else ""
    return _note(text + after)


def _note(text: str) -> _Row:
    return _Row(_short(text), text, None)


def _region_rows(
    regions: Sequence[RegionInfo], streams: Streams, total: int
) -> Iterator[_Row]:
    lanes = find_lanes(streams, [region.name for region in regions])
    for region, lane in zip(regions, lanes, strict=True):
        share = region.flops / total if total else 0.0
        yield _Row(
            text=_short(f"{region.name}  {region.module}  {share:.1%}"),
            tooltip=(
                f"{region.name}: {region.kind} in {region.module}, {share:.2%} of "
                f"{total / 1e9:.1f} GFLOP, {region.cache_bytes / 2**20:.1f} MiB"
            ),
            fill=_COLOURS.get(region.kind, _FAINT),
            lanes=lane.passing,
            added=lane.added,
            joined=lane.joined,
        )


def _of_stream(index: int) -> str:
    return _STREAMS[index % len(_STREAMS)]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _draw_legend(svg: ET.Element) -> None:
    x = float(_MARGIN)
    for kind, colour in _COLOURS.items():
        _add(svg, "rect", x=x, y=36, width=14, height=12, fill=colour)
        _add_text(svg, x + 20, 46, kind)
        x += 20 + (len(kind) + 3) * _CHARACTER
    dashed = {"fill": _PAPER, "stroke": _FAINT, "stroke_dasharray": "3 2"}
    _add(svg, "rect", x=x, y=36, width=14, height=12, **dashed)
    _add_text(svg, x + 20, 46, "refused   share of all FLOPs in %", colour=_FAINT)


def _draw_row(
    svg: ET.Element, row: _Row, x: float, y: float, lanes: float, box: float
) -> None:
    middle = y + _ROW / 2
    for lane in row.lanes:
        at = x + lane * _LANE
        line = {"stroke": _of_stream(lane), "stroke_width": 2}
        _add(svg, "line", x1=at, x2=at, y1=y, y2=y + _ROW, **line)
    for ending, into in row.joined:
        line = {"stroke": _of_stream(ending), "stroke_width": 2}
        ends = {"x1": x + ending * _LANE, "x2": x + into * _LANE, "y1": y, "y2": y}
        _add(svg, "line", **ends, **line)
    if row.added:
        start = x + row.added[0] * _LANE
        ends = {"x1": start, "x2": x + lanes, "y1": middle, "y2": middle}
        _add(svg, "line", **ends, stroke=_INK, stroke_width=1)
    for lane in row.added:
        _add(svg, "circle", cx=x + lane * _LANE, cy=middle, r=4, fill=_INK)
    left = x + lanes if row.fill or row.refused else x
    if row.fill or row.refused:
        frame = {
            "x": left,
            "y": middle - _BOX / 2,
            "width": box,
            "height": _BOX,
            "rx": 3,
        }
        look = (
            {"fill": row.fill, "stroke": _INK, "stroke_width": 0.5}
            if row.fill
            else {"fill": _PAPER, "stroke": _FAINT, "stroke_dasharray": "3 2"}
        )
        _add(svg, "rect", **frame, **look)
    colour = _INK if row.fill else row.colour
    text = _add_text(svg, left + (8 if left > x else 0), middle + 4, row.text, colour)
    ET.SubElement(text, "title").text = row.tooltip


def _add_text(
    svg: ET.Element,
    x: float,
    y: float,
    text: str,
    colour: str = _INK,
    size: int = _FONT,
) -> ET.Element:
    element = _add(svg, "text", x=x, y=y, fill=colour, font_size=size)
    element.set("xml:space", "preserve")
    element.text = text
    return element


def _add(svg: ET.Element, tag: str, **attributes: object) -> ET.Element:
    """An element; underscores in the names of attributes stand for dashes."""
    texts = {
        name.replace("_", "-"): f"{x:g}" if isinstance(x, float) else str(x)
        for name, x in attributes.items()
    }
    return ET.SubElement(svg, tag, texts)
