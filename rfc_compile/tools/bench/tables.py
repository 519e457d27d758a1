"""The tables: timed settings by workload, the sweep, what failed; and README's."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from rfc_compile.io.files import replace_section
from rfc_compile.io.json_files import MOST_BYTES
from rfc_compile.tools.bench.methods import METHODS
from rfc_compile.tools.bench.records import Quality, Records, Score, Timing, best_at
from rfc_compile.tools.bench.workloads import GLYPH, WORKLOADS
from rfc_compile.tools.measure.environment import Grid

START: Final = "<!-- bench: written by make bench -->"
END: Final = "<!-- end of bench -->"
README_NFC: Final = 14

_COST: Final = (
    "time ms",
    "speed-up (spread)",
    "of S/NFC",
    "extra MiB",
    "breaks",
    "recompiles",
    "compile s",
)


def grids(records: Records) -> list[Grid]:
    """All tables, those that would be empty left out."""
    tables = [
        *(_timed(records, name) for name in WORKLOADS),
        _reported(records.qualities),
        _sweep(records.qualities),
        _errors(records),
    ]
    return [table for table in tables if table.rows]


def _timed(records: Records, workload: str) -> Grid:
    known = workload == GLYPH.name
    header = ["method", "setting", "mode", "NFC", *_COST]
    if known:
        header += ["PSNR dB", "SSIM", "Frechet"]
    rows = []
    for timing in records.timings_of(workload):
        row = [timing.method, timing.setting, timing.mode, *_cost(timing)]
        if known:
            quality = records.quality_of(timing.method, timing.setting)
            row += _score(None if quality is None else quality.report)
        rows.append(row)
    steps = max((t.steps for t in records.timings_of(workload)), default=0)
    return Grid(f"{workload}, {steps} steps", header, rows)


def _cost(timing: Timing) -> list[str]:
    low, high = (f(timing.seconds) * 1e3 for f in (min, max))
    return [
        f"{timing.nfc:.1f}",
        f"{timing.median * 1e3:.0f} ({low:.0f} to {high:.0f})",
        f"{timing.speedup:.2f} ({timing.spread:.0%})",
        f"{timing.share:.0%}",
        f"{timing.extra_bytes / 2**20:.2f}",
        str(timing.graph_breaks),
        str(timing.recompiles),
        f"{timing.compile_seconds:.1f}",
    ]


def _score(score: Score | None) -> list[str]:
    if score is None:
        return ["-", "-", "-"]
    similarity = f"{score.psnr:.2f} (min {score.psnr_min:.1f})"
    return [similarity, f"{score.ssim:.4f}", f"{score.frechet:.4f}"]


def _reported(qualities: Iterable[Quality]) -> Grid:
    rows = [
        [
            *(q.method, q.setting, f"{q.selection.nfc:.1f}", f"{q.selection.psnr:.2f}"),
            *(f"{q.report.nfc:.1f}", *_score(q.report)),
        ]
        for q in qualities
        if q.selection is not None and q.report is not None
    ]
    header = ["method", "setting", "NFC", "PSNR dB", "reported: NFC"]
    return Grid("Chosen settings", [*header, "PSNR dB", "SSIM", "Frechet"], rows)


def _sweep(qualities: Iterable[Quality]) -> Grid:
    rows = [
        [q.method, q.setting, f"{q.selection.nfc:.1f}", *_score(q.selection)]
        for q in qualities
        if q.selection is not None
    ]
    header = ["method", "setting", "NFC", "PSNR dB", "SSIM", "Frechet"]
    title = "Every setting that was tried, on the images of the selection"
    return Grid(title, header, rows)


def _errors(records: Records) -> Grid:
    rows = [
        [q.method, q.setting, "images", q.error] for q in records.qualities if q.error
    ]
    rows += [
        [t.method, t.setting, f"{t.workload}, {t.mode}", t.error]
        for t in records.timings
        if t.error
    ]
    return Grid("What did not run", ["method", "setting", "where", "error"], rows)


def readme_table(records: Records) -> str:
    """One row per method: its setting for NFC 14, the reported images, its time."""
    rows = []
    for method in METHODS.values():
        best = best_at(records.of_method(method.name), README_NFC)
        if best is None or best.report is None:
            continue
        runs = [
            timing
            for timing in records.timings_of(GLYPH.name)
            if (timing.method, timing.setting) == (best.method, best.setting)
        ]
        if runs:
            fastest = min(runs, key=lambda timing: timing.median)
            name = f"**{method.name}**" if method.ours else method.name
            rows.append([name, *_readme_row(best.report, fastest)])
    header = ["method", "NFC", "PSNR dB", "SSIM", "speed-up", "of S/NFC"]
    header += ["graph breaks", "recompiles", "extra MiB"]
    return Grid("", header, rows).body()


def _readme_row(report: Score, run: Timing) -> list[str]:
    return [
        f"{report.nfc:.1f}",
        f"{report.psnr:.2f}",
        f"{report.ssim:.4f}",
        f"{run.speedup:.2f}",
        f"{run.share:.0%}",
        str(run.graph_breaks),
        str(run.recompiles),
        f"{run.extra_bytes / 2**20:.1f}",
    ]


def write_readme(path: Path, table: str) -> None:
    """Replace what stands between the two markers."""
    replace_section(path, START, END, table, MOST_BYTES)
