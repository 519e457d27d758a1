"""What a check can limit: one table, from which options, reports and baselines follow.

A quantity is a field of `Measured`; its limit is called `min_psnr`, on the command line
`--min-psnr`. A new one is one line here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal

from rfc_compile.errors import OptionError

Unit = Literal["dB", "x", "bytes", "count", ""]


@dataclass(frozen=True)
class Quantity:
    """One number of a measurement.

    Attributes:
        field: of `Measured`.
        limit: name of its limit, `min_...` where larger is better, else `max_...`.
        label: as tables show it.
        unit: of the number; a `count` is a whole number.
        low: least bound that makes sense.
        high: largest bound that makes sense.
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
