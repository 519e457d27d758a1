"""The picture: speed-up against quality of every timed setting, and the front."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rfc_compile.tools.bench.methods import METHODS
from rfc_compile.tools.bench.records import Records
from rfc_compile.tools.bench.workloads import GLYPH
from rfc_compile.tools.measure.pareto import Point, front

_MARKERS: Final = "sDv^<>pPXh*d8H"


def save_plot(path: Path, records: Records) -> None:
    """Saves a PNG; two panels, reported PSNR over speed-up, all settings over NFC."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    by_time, by_work = figure.subplots(1, 2, sharey=True)
    timed = _by_method((t.method, point) for t, point in records.points_of(GLYPH.name))
    swept = _by_method(
        (quality.method, (score.nfc, score.psnr))
        for quality in records.qualities
        if (score := quality.selection) is not None
    )
    _draw(by_time, timed)
    _draw(by_work, swept)
    best = front((name, point) for name, points in timed.items() for point in points)
    by_time.plot(*zip(*(p for _, p in best), strict=True), color="0.7", zorder=0)
    by_time.set(xlabel="speed-up over inductor without caching", ylabel="PSNR in dB")
    by_work.set(xlabel="NFC, the work in full forwards (images of the selection)")
    by_work.set_xlim(4, 52)
    by_work.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=130)


def _draw(ax: Axes, series: Mapping[str, list[Point]]) -> None:
    names = list(METHODS)
    for name, points in series.items():
        ours = METHODS[name].ours
        ax.plot(
            *zip(*sorted(points), strict=True),
            linestyle="none",
            marker="o" if ours else _MARKERS[names.index(name) % len(_MARKERS)],
            markersize=8 if ours else 5,
            label=name,
            zorder=2 if ours else 1,
        )
    ax.grid(alpha=0.3)


def _by_method(points: Iterable[tuple[str, Point]]) -> dict[str, list[Point]]:
    series: dict[str, list[Point]] = {}
    for name, point in points:
        series.setdefault(name, []).append(point)
    return series
