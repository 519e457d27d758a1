"""What is wanted of tuned options, and which of several settings is the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rfc_compile.config.tuned_file import Measured, Tuned
from rfc_compile.errors import OptionError


@dataclass(frozen=True)
class Goal:
    """Limits to keep; without any, the whole front of speed and quality is wanted.

    Attributes:
        target_speedup: over the uncached model under the same inner backend, at least.
        target_nfc: full computations of a run, at most.
        min_psnr: mean over the images, in dB.
        min_ssim: mean over the images, at most 1.
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
        low_psnr = self.min_psnr is not None and found.psnr < self.min_psnr
        low_ssim = self.min_ssim is not None and (found.ssim or 0.0) < self.min_ssim
        return not low_psnr and not low_ssim

    def misses(self, found: Measured) -> list[str]:
        """The limits that a measured setting misses, each with its numbers."""
        missed = []
        if self.target_speedup is not None and speedup(found) < self.target_speedup:
            missed.append(f"speed-up {speedup(found):.2f} < {self.target_speedup:g}")
        if self.target_nfc is not None and found.nfc > self.target_nfc:
            missed.append(f"NFC {found.nfc:.1f} > {self.target_nfc:g}")
        if self.min_psnr is not None and found.psnr < self.min_psnr:
            missed.append(f"PSNR {found.psnr:.2f} dB < {self.min_psnr:g} dB")
        if self.min_ssim is not None and (found.ssim or 0.0) < self.min_ssim:
            missed.append(f"SSIM {found.ssim or 0.0:.4f} < {self.min_ssim:g}")
        return missed

    def best(self, measured: Sequence[Measured]) -> int:
        """Index of the best: of those that meet the limits, if there are any.

        The best quality at a given cost, the fastest at a given quality, the knee of
        the front if nothing is given. If none meets them, the one that comes closest.
        """
        meeting = [i for i, found in enumerate(measured) if not self.misses(found)]
        if not meeting:
            return max(range(len(measured)), key=lambda i: -self._lack(measured[i]))
        if self.limits_cost:
            return max(meeting, key=lambda i: (measured[i].psnr, speedup(measured[i])))
        if self.limits_quality:
            return max(meeting, key=lambda i: (speedup(measured[i]), measured[i].psnr))
        return _knee(measured)

    def _lack(self, found: Measured) -> float:
        """By what factor or share the limits are missed, all added up."""
        lack = 0.0
        if self.target_speedup is not None:
            lack += max(0.0, self.target_speedup / speedup(found) - 1)
        if self.target_nfc is not None:
            lack += max(0.0, found.nfc / self.target_nfc - 1)
        if self.min_psnr is not None:
            lack += max(0.0, self.min_psnr - found.psnr) / 6  # 6 dB: half the error
        if self.min_ssim is not None:
            lack += max(0.0, self.min_ssim - (found.ssim or 0.0))
        return lack


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
