"""Limits and verdicts: what must hold of a measurement, and whether it does.

A gate must never open by accident: what cannot be judged is missed, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rfc_compile.errors import OptionError, did_you_mean
from rfc_compile.tools.checking.quantities import BY_LIMIT, QUANTITIES, Quantity


@dataclass(frozen=True)
class Limit:
    """A bound on one quantity.

    Attributes:
        bound: what it must reach, or not exceed.
        origin: where the bound comes from, if the user did not give it himself.
    """

    quantity: Quantity
    bound: float
    origin: str = ""

    @property
    def name(self) -> str:
        """`min_psnr`; of a baseline `baseline_min_psnr`."""
        return f"{'baseline_' if self.origin else ''}{self.quantity.limit}"

    def holds(self, value: float | None) -> bool:
        """Whether a value keeps to it; None and NaN never do."""
        if value is None:
            return False
        at_least = self.quantity.at_least
        return value >= self.bound if at_least else value <= self.bound

    def __str__(self) -> str:
        word = "at least" if self.quantity.at_least else "at most"
        origin = f" ({self.origin})" if self.origin else ""
        return f"{word} {self.quantity.show(self.bound)}{origin}"


@dataclass(frozen=True)
class Verdict:
    """Whether one limit holds.

    Attributes:
        name: of the limit, as `min_psnr`.
        label: of what is limited, as `PSNR, mean`.
        limit: the bound in words.
        value: what was measured, in words.
        reason: why not, in words; empty when it holds.
        bound: the bound as a number, where it is one.
        measured: what was measured as a number, where it is one.
    """

    name: str
    label: str
    limit: str
    value: str
    passed: bool
    reason: str = ""
    bound: float | None = None
    measured: float | None = None

    def __str__(self) -> str:
        if self.passed:
            return f"{self.label}: {self.value}, {self.limit}"
        return f"{self.label}: {self.reason}"


def make_limits(bounds: Mapping[str, object]) -> tuple[Limit, ...]:
    """Limits by name, as `{"min_psnr": 30, "max_memory": "2GiB"}`."""
    for name in bounds:
        if name not in BY_LIMIT:
            raise OptionError(f"unknown limit {name!r}{did_you_mean(name, BY_LIMIT)}")
    return tuple(
        Limit(quantity, quantity.parse(bounds[quantity.limit]))
        for quantity in QUANTITIES
        if quantity.limit in bounds
    )


def loosened(quantity: Quantity, value: float, tolerance: float) -> float:
    """The bound that a value of an earlier run sets: worse by this share of it."""
    if math.isinf(value):
        return value
    allowance = tolerance * abs(value)
    return value - allowance if quantity.at_least else value + allowance


def judge(limit: Limit, value: float | None, obstacle: str = "") -> Verdict:
    """Whether a limit holds; the value is None where nothing was measured.

    ``obstacle`` says why the value says nothing; empty where it does.
    """
    number = None if value is None or math.isnan(value) else float(value)
    shown = "not known" if number is None else limit.quantity.show(number)
    reason = obstacle
    if not reason and number is None:
        reason = "it was not measured, or is not a number"
    elif not reason and not limit.holds(number):
        reason = f"{shown} measured, {limit} wanted"
    what = limit.name, limit.quantity.label, str(limit), shown
    return Verdict(*what, not reason, reason, limit.bound, number)
