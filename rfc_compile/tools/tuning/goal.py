"""What is wanted of tuned options, and which of several settings is the best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rfc_compile.config.tuned_file import Measured, Tuned
from rfc_compile.errors import OptionError


@dataclass(frozen=True)
class Goal:
    """Limits to keep, as `tune` takes them.

    Without any, the whole front of speed and quality is wanted.
    """

    target_speedup: float | None = None
    target_nfc: float | None = None
    min_psnr: float | None = None
    min_ssim: float | None = None

    def __post_init__(self) -> None:
        least = {"target_speedup": 1, "target_nfc": 1, "min_psnr": 0, "min_ssim": 0}
        most = {"min_ssim": 1.0}
        for name, value in asdict(self).items():
            low, high = least[name], most.get(name, math.inf)
            if value is not None and not (low <= value <= high and value < math.inf):
                limit = f"from {low} to {high:g}" if high < math.inf else f">= {low}"
                raise OptionError(
                    f"{name}={value!r} is not allowed; allowed: a number {limit}"
                )
        if self.target_speedup is not None and self.target_nfc is not None:
            raise OptionError("target_speedup and target_nfc: give one of the two")

    @property
    def limits_cost(self) -> bool:
        """Whether the cost is given, so that the best quality is wanted for it."""
        return self.target_speedup is not None or self.target_nfc is not None

    @property
    def option(self) -> dict[str, Any]:
        """The option of the backend that asks for the cost by itself; empty if none."""
        if self.target_nfc is not None:
            return {"target_nfc": math.floor(self.target_nfc)}
        if self.target_speedup is not None:
            return {"target_speedup": self.target_speedup}
        return {}

    @property
    def limits_quality(self) -> bool:
        """Whether a quality is given."""
        return self.min_psnr is not None or self.min_ssim is not None

    def keeps_quality(self, found: Measured) -> bool:
        """Whether the images are close enough."""
        quality = Goal(min_psnr=self.min_psnr, min_ssim=self.min_ssim)
        return not quality.misses(found)

    def misses(self, found: Measured) -> list[str]:
        """The limits that a measured setting misses, each with its numbers."""
        return [words for words, lack in self._lacks(found) if lack > 0]

    def _lacks(self, found: Measured) -> Iterator[tuple[str, float]]:
        """Every limit: its numbers, and by what factor or share it is missed."""
        faster, ssim = speedup(found), found.ssim or 0.0
        if (least := self.target_speedup) is not None:
            yield f"speed-up {faster:.2f} < {least:g}", least / faster - 1
        if (most := self.target_nfc) is not None:
            yield f"NFC {found.nfc:.1f} > {most:g}", found.nfc / most - 1
        if (least := self.min_psnr) is not None:
            missing = (least - found.psnr) / 6  # 6 dB: half the error
            yield f"PSNR {found.psnr:.2f} dB < {least:g} dB", missing
        if (least := self.min_ssim) is not None:
            yield f"SSIM {ssim:.4f} < {least:g}", least - ssim

    def best(self, measured: Sequence[Measured]) -> int:
        """Index of the best: of those that meet the limits, if there are any.

        The best quality at a given cost, the fastest at a given quality, the knee of
        the front if nothing is given. If none meets them, the one that comes closest.
        """
        meeting = [i for i, found in enumerate(measured) if not self.misses(found)]
        if not meeting:
            missing = [
                sum(max(0.0, lack) for _, lack in self._lacks(found))
                for found in measured
            ]
            return min(range(len(measured)), key=missing.__getitem__)
        if self.limits_cost:
            return max(meeting, key=lambda i: (measured[i].psnr, speedup(measured[i])))
        if self.limits_quality:
            return max(meeting, key=lambda i: (speedup(measured[i]), measured[i].psnr))
        return _knee(measured)


def speedup(found: Measured) -> float:
    """As measured; where nothing was timed, that of the full computations alone."""
    return found.steps / found.nfc if found.speedup is None else found.speedup


def _knee(measured: Sequence[Measured]) -> int:
    """The point farthest above the line between the slowest and the fastest one."""
    points = [(math.log(speedup(found)), found.psnr) for found in measured]
    (x0, y0), (x1, y1) = min(points), max(points)
    above = [
        (y - y0) * (x1 - x0) - (x - x0) * (y1 - y0) if x1 > x0 else y for x, y in points
    ]
    return max(range(len(points)), key=above.__getitem__)


class GoalError(ValueError):
    """Tuning found nothing that meets the limits.

    The message says which are missed, and by how much, by the options that come
    closest; ``best`` holds these.
    """

    def __init__(self, message: str, best: Tuned) -> None:
        super().__init__(message)
        self.best = best
