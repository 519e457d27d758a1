"""The HTML report of a study: one file, with its pictures inside."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import jinja2

from rfc_compile.config.tuned_file import Measured
from rfc_compile.graph_report import RegionInfo
from rfc_compile.report.numbers import scaled, size
from rfc_compile.tools.measure.environment import environment
from rfc_compile.tools.tuning.plots import (
    images_plot,
    schedules_plot,
    steps_plot,
)
from rfc_compile.tools.tuning.space import describe
from rfc_compile.tools.tuning.study import Study
from rfc_compile.tools.tuning.trials import Tried

_TEMPLATE: Final = Path(__file__).parents[2] / "assets" / "report" / "tune.html"


def render_report(study: Study, plot: bytes) -> str:
    """The page, with the Pareto plot that is given."""
    loader = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    template = loader.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    search, pictures = study.search, _pictures(study, plot)
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


def _pictures(study: Study, plot: bytes) -> list[tuple[str, bytes]]:
    images = images_plot(study)
    return [
        ("Speed and quality", plot),
        *([] if images is None else [("Images, and differences times 4", images)]),
        ("Steps of the best", steps_plot(study)),
        ("Schedules", schedules_plot(study)),
    ]


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
