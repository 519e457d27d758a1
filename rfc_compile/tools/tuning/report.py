"""The HTML report of a study: one file, with its pictures inside as PNG."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
import torch
from matplotlib.figure import Figure
from torch import Tensor

from rfc_compile.config.tuned_file import Measured
from rfc_compile.graph_report import RegionInfo
from rfc_compile.report.numbers import scaled, size
from rfc_compile.report.statistics import Statistics
from rfc_compile.report.statistics_plot import statistics_figure
from rfc_compile.tools.measure.environment import environment
from rfc_compile.tools.measure.image_grid import as_png, save_comparison
from rfc_compile.tools.measure.pareto import front
from rfc_compile.tools.tuning.goal import speedup
from rfc_compile.tools.tuning.space import describe
from rfc_compile.tools.tuning.study import Study
from rfc_compile.tools.tuning.trials import Tried

_TEMPLATE: Final = Path(__file__).parents[2] / "assets" / "report" / "tune.html"
_MOST_IMAGES: Final = 6


def render_report(study: Study, plot: bytes) -> str:
    """The page, with the Pareto plot that is given."""
    loader = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    template = loader.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    search, images = study.search, _images_plot(study)
    pictures = [
        ("Speed and quality", plot),
        *([] if images is None else [("Images, and differences times 4", images)]),
        ("Steps of the best", _steps_plot(study)),
        ("Schedules", _schedules_plot(study)),
    ]
    return template.render(
        study=study,
        search=search,
        environment=str(environment("rfc-compile")).splitlines(),
        options=json.dumps(study.tuned.options, indent=1),
        pictures=[(title, _data_uri(image)) for title, image in pictures],
        finals=[_row(f.kind, f.setting, f.measured) for f in search.measured],
        best=search.measured.index(search.best),
        comparison=mask_comparison(search.tried),
        regions=_regions(search.best.explanation.regions),
        explanation=search.best.explanation,
        trials=[_row(t.kind, t.setting, t.measured) for t in search.tried],
    )


def _data_uri(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _row(kind: str, setting: Any, found: Measured) -> dict[str, str]:
    return {
        "setting": f"{kind}: {describe(setting)}",
        "NFC": f"{found.nfc:.1f}",
        "speed-up": "" if found.speedup is None else f"{found.speedup:.2f}",
        "PSNR": f"{found.psnr:.2f}",
        "PSNR min": f"{found.psnr_min:.2f}",
        "SSIM": "" if found.ssim is None else f"{found.ssim:.4f}",
        "state": size(found.state_bytes),
        "graph breaks": str(found.graph_breaks),
        "recompiles": str(found.recompiles),
    }


def mask_comparison(tried: Iterable[Tried]) -> list[dict[str, str]]:
    """Where full steps come from and what images they give, a row for each number."""
    best: dict[int, dict[str, float]] = {}
    kinds: dict[str, None] = {}
    for one in sorted(tried, key=lambda one: (len(one.mask), one.psnr)):
        kinds[one.kind] = None
        best.setdefault(len(one.mask), {})[one.kind] = one.psnr
    return [
        {
            "full steps": str(count),
            **{kind: f"{own[kind]:.2f}" if kind in own else "" for kind in kinds},
        }
        for count, own in best.items()
    ]


def _regions(regions: Iterable[RegionInfo]) -> list[dict[str, str]]:
    return [
        {
            "region": region.name,
            "kind": region.kind,
            "module": region.module,
            "work": scaled(region.flops, "FLOP"),
            "state": size(region.cache_bytes),
        }
        for region in regions
    ]


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


def _images_plot(study: Study) -> bytes | None:
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


def _steps_plot(study: Study) -> bytes:
    """What the best one's schedule saw and decided at every step of one run."""
    best = study.search.best
    own = best.runs[0].decisions
    full = sum(decision.full for decision in own)
    steps = 1 + max((decision.step for decision in own), default=-1)
    found = Statistics(nfc=full, steps=steps, decisions=own)
    return as_png(statistics_figure(found, best.kind))


def _schedules_plot(study: Study) -> bytes:
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
