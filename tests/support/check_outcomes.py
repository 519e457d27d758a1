"""Outcomes of checks that tests of the reports share, made of real records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone

from rfc_compile.config.fingerprint import Fingerprint
from rfc_compile.config.tuned_file import Measured
from rfc_compile.tools.checking.limits import judge, make_limits
from rfc_compile.tools.checking.outcome import Outcome
from rfc_compile.tools.measure.environment import environment

MEASURED = Measured(
    nfc=14,
    steps=50,
    psnr=41.25,
    psnr_min=38.5,
    ssim=0.9912,
    images=8,
    state_bytes=9 * 2**20,
    graph_breaks=0,
    recompiles=0,
)


def outcome(
    limits: Mapping[str, object],
    *,
    target: str = "glyph-dit",
    notes: tuple[str, ...] = (),
    obstacle: str = "",
    **changes: float | None,
) -> Outcome:
    """An outcome of `MEASURED` with some changes, judged by these limits."""
    measured = replace(MEASURED, **changes)  # type: ignore[arg-type]
    verdicts = tuple(
        judge(limit, getattr(measured, limit.quantity.field), obstacle)
        for limit in make_limits(limits)
    )
    return Outcome(
        target=target,
        config="rfc.json",
        options={"threshold": 0.4},
        measured=measured,
        fingerprint=Fingerprint({"class": "DiT"}, "ddim", 50, "2.13.0", "0.1.0"),
        verdicts=verdicts,
        notes=notes,
        seconds=12.3456,
        ended=datetime(2026, 11, 25, 15, 4, 5, tzinfo=timezone.utc),
        environment=environment("rfc-compile"),
    )


GOOD = outcome({"min_psnr": 30, "max_nfc": 14, "max_memory": "2GiB"})
MISSED = outcome(
    {"min_psnr": 45, "min_ssim": 0.5, "max_nfc": 10},
    ssim=math.nan,
    notes=("another model or sampler: steps is 50, tuned with 20",),
)
NASTY = outcome(
    {"min_psnr": 30},
    target="a|b <script>[x](y) `c` \x1b[31m\x00 &_*",
    notes=("line one\nline two | end ]]> \ufffe",),
    obstacle="nothing was cached: \x07 <&>\"'",
)
