"""The benchmark's claims, each checked on the numbers; a miss says so.

Rivals are other systems: everything but the uncached model, our own methods, and
FORA's and TaylorSeer's rules in our runtime. Settings were chosen on other images than
those that the numbers come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rfc_compile.tools.bench.methods import METHODS
from rfc_compile.tools.bench.records import Records, Timing, best_at
from rfc_compile.tools.bench.workloads import DIT_B, GLYPH
from rfc_compile.tools.measure.pareto import Point, dominators

_OURS: Final = [method.name for method in METHODS.values() if method.ours]
_RIVALS: Final = [method.name for method in METHODS.values() if method.rival]

SHARES: Final = {"rfc, module": 0.90, "rfc, stack": 0.95}
"""Share of S/NFC to reach on the DiT-B shape, by granularity."""


@dataclass(frozen=True)
class Verdict:
    """A claim and what the numbers say; `met` is None where they are missing."""

    claim: str
    met: bool | None
    numbers: str

    def __str__(self) -> str:
        word = {True: "met", False: "missed", None: "not measured"}[self.met]
        return f"{word}: {self.claim}: {self.numbers}"


def verdicts(records: Records, targets: Sequence[float]) -> list[Verdict]:
    """All claims: quality, time, both, then the share of the possible speed-up."""
    return [
        *(_quality(records, target) for target in targets),
        *(_time(records, target) for target in targets),
        _domination(records),
        *(_share(records, name, least) for name, least in SHARES.items()),
    ]


def _quality(records: Records, target: float) -> Verdict:
    """Of ours the one that was best on the selection, of the rivals on the report."""
    claim = f"best images at NFC {target:g}"
    ours = best_at([q for q in records.qualities if q.method in _OURS], target)
    rivals = [
        (quality, quality.report)
        for name in _RIVALS
        if (quality := best_at(records.of_method(name), target)) is not None
        and quality.report is not None
    ]
    if ours is None or ours.report is None or not rivals:
        return Verdict(claim, None, "no setting with so few full steps")
    rival, report = max(rivals, key=lambda item: item[1].psnr)
    numbers = (
        f"{ours.report.psnr:.2f} dB ({ours.method}, NFC {ours.report.nfc:.1f}) and "
        f"{report.psnr:.2f} dB ({rival.method}, NFC {report.nfc:.1f})"
    )
    return Verdict(claim, ours.report.psnr >= report.psnr, numbers)


def _time(records: Records, target: float) -> Verdict:
    """One of our points there has no rival that is at least as fast and as close."""
    claim = f"on the front of time and quality at NFC {target:g}"
    rivals = _points(records, _RIVALS)
    best = [best_at(records.of_method(name), target) for name in _OURS]
    chosen = {(one.method, one.setting) for one in best if one is not None}
    ours = [
        (timing, point)
        for timing, point in _points(records, _OURS)
        if (timing.method, timing.setting) in chosen
    ]
    if not ours or not rivals:
        return Verdict(claim, None, "no timed point")
    free = [item for item in ours if not dominators(item[1], rivals)]
    numbers = ", ".join(_describe(timing, point) for timing, point in free or ours)
    if not free:
        numbers += f"; dominated by {_list(dominators(ours[0][1], rivals))}"
    return Verdict(claim, bool(free), numbers)


def _domination(records: Records) -> Verdict:
    claim = "no rival point dominates one of ours in speed-up and PSNR"
    rivals, ours = _points(records, _RIVALS), _points(records, _OURS)
    if not ours or not rivals:
        return Verdict(claim, None, "no timed point")
    beaten = [
        f"{_describe(timing, point)} by {_list(better)}"
        for timing, point in ours
        if (better := dominators(point, rivals))
    ]
    count = f"{len(beaten)} of {len(ours)} points of ours are dominated"
    return Verdict(claim, not beaten, "; ".join([count, *beaten]))


def _share(records: Records, method: str, least: float) -> Verdict:
    claim = f"{method}: at least {least:.0%} of S/NFC end to end on {DIT_B.name}"
    found = [t for t in records.timings_of(DIT_B.name) if t.method == method]
    if not found:
        return Verdict(claim, None, "no run")
    numbers = ", ".join(f"{t.share:.1%} at NFC {t.nfc:.1f}" for t in found)
    return Verdict(claim, min(t.share for t in found) >= least, numbers)


def _points(records: Records, names: Sequence[str]) -> list[tuple[Timing, Point]]:
    """(speed-up, PSNR) of the timed settings on the bundled model."""
    points = records.points_of(GLYPH.name)
    return [(timing, point) for timing, point in points if timing.method in names]


def _describe(timing: Timing, point: Point) -> str:
    return f"{timing.method} at {point[0]:.2f}x and {point[1]:.2f} dB"


def _list(timings: Sequence[Timing]) -> str:
    return ", ".join(
        f"{t.method} ({t.setting}, {t.mode}, {t.speedup:.2f}x)" for t in timings
    )
