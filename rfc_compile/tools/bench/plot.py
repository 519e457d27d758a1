"""The picture: speed-up against quality of every timed setting, and the front."""

from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rfc_compile.tools.bench.methods import METHODS
from rfc_compile.tools.bench.records import Records
from rfc_compile.tools.bench.workloads import GLYPH
from rfc_compile.tools.measure.pareto import front

_MARKERS: Final = "sDv^<>pPXh*d8H"


def save_plot(path: Path, records: Records) -> None:
    """Saves a PNG; two panels, reported PSNR over speed-up, all settings over NFC."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    by_time, by_work = figure.subplots(1, 2, sharey=True)
    timed, swept = _timed_points(records), _swept_points(records)
    _draw(by_time, timed)
    _draw(by_work, swept)
    best = front((name, point) for name, points in timed.items() for point in points)
    by_time.plot(*zip(*(p for _, p in best), strict=True), color="0.7", zorder=0)
    by_time.set(xlabel="speed-up over inductor without caching", ylabel="PSNR in dB")
    by_work.set(xlabel="NFC, the work in full forwards (images of the selection)")
    by_work.set_xlim(4, 52)
    by_work.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=130)


def _draw(ax: Axes, series: dict[str, list[tuple[float, float]]]) -> None:
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


def _timed_points(records: Records) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for timing, point in records.points_of(GLYPH.name):
        series.setdefault(timing.method, []).append(point)
    return series


def _swept_points(records: Records) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for quality in records.qualities:
        score = quality.selection
        if score is not None:
            series.setdefault(quality.method, []).append((score.nfc, score.psnr))
    return series
