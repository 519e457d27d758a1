"""What a check can limit, limits and verdicts.

A quantity is a field of `Measured`; its limit is called `min_psnr`, on the command line
`--min-psnr`. A new one is one line in `QUANTITIES`. A gate must never open by accident:
what cannot be judged is missed, with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from rfc_compile.errors import OptionError, did_you_mean

Unit = Literal["dB", "x", "bytes", "count", ""]


@dataclass(frozen=True)
class Quantity:
    """One number of a measurement.

    Attributes:
        field: of `Measured`.
        limit: name of its limit, `min_...` where larger is better, else `max_...`.
        label: as tables show it.
        low: least bound that makes sense; `high` is the largest.
        timed: whether the model must be timed for it.
        of_caching: whether it says nothing where no step was cached.
    """

    field: str
    limit: str
    label: str
    unit: Unit = ""
    low: float = 0.0
    high: float = math.inf
    timed: bool = False
    of_caching: bool = True

    @property
    def at_least(self) -> bool:
        """Whether larger is better."""
        return self.limit.startswith("min_")

    @property
    def option(self) -> str:
        """The limit on the command line."""
        return f"--{self.limit.replace('_', '-')}"

    def show(self, value: float) -> str:
        """A number as tables show it."""
        if math.isinf(value) and self.unit == "dB":
            return "identical"
        if self.unit == "bytes":
            return f"{value / 2**20:.2f} MiB"
        return _FORMATS[self.unit].format(value)

    def parse(self, value: object) -> float:
        """A bound as the user gave it."""
        if self.unit == "bytes":
            digits = isinstance(value, str) and value.isascii() and value.isdecimal()
            return float(_bytes(self.limit, int(str(value)) if digits else value))
        number = _number(value)
        whole = self.unit != "count" or number.is_integer()
        if math.isinf(number) or not self.low <= number <= self.high or not whole:
            raise OptionError(
                f"{self.limit}={value!r} is not allowed; allowed: {self._allowed}"
            )
        return number

    @property
    def _allowed(self) -> str:
        kind = "a whole number" if self.unit == "count" else "a number"
        if self.high < math.inf:
            return f"{kind} from {self.low:g} to {self.high:g}"
        return f"{kind} >= {self.low:g}"


_FORMATS: Final = {"dB": "{:.2f} dB", "x": "{:.2f}x", "count": "{:.0f}", "": "{:.4g}"}

QUANTITIES: Final = (
    Quantity("psnr", "min_psnr", "PSNR, mean", "dB"),
    Quantity("psnr_min", "min_worst_psnr", "PSNR, worst image", "dB"),
    Quantity("ssim", "min_ssim", "SSIM, mean", low=-1, high=1),
    Quantity("speedup", "min_speedup", "speed-up", "x", timed=True),
    Quantity("nfc", "max_nfc", "full steps (NFC)", low=1),
    Quantity("state_bytes", "max_memory", "state", "bytes"),
    Quantity(
        "graph_breaks", "max_graph_breaks", "graph breaks", "count", of_caching=False
    ),
    Quantity(
        "recompiles", "max_recompiles", "recompilations", "count", of_caching=False
    ),
)
"""In the order of the tables."""

BY_LIMIT: Final = {quantity.limit: quantity for quantity in QUANTITIES}


def _number(value: object) -> float:
    """NaN for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


_UNITS = {"B": 1}
_UNITS |= {f"{letter}B": 1000**i for i, letter in enumerate("KMGT", 1)}
_UNITS |= {f"{letter}iB": 1024**i for i, letter in enumerate("KMGT", 1)}


def _bytes(name: str, value: object) -> int:
    """Bytes of a positive whole number, or of a text such as ``"512 MiB"``."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    text = value if isinstance(value, str) else ""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(\w+)", text, re.ASCII)
    size = 0.0 if found is None else float(found[1]) * _UNITS.get(found[2], 0)
    if not 1 <= size < math.inf:
        raise OptionError(
            f"{name}={value!r} is not allowed; allowed: a whole number of bytes, or a "
            f"number with a unit as '512 MiB' (units: {', '.join(_UNITS)})"
        )
    return int(size)


@dataclass(frozen=True)
class Limit:
    """A bound on one quantity; ``origin`` says where it comes from, if not from the
    user.
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
        label: of what is limited, as `PSNR, mean`.
        limit: the bound in words; `bound` is its number, where it is one.
        value: what was measured in words; `measured` is its number.
        reason: why the limit does not hold; empty when it does.
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
