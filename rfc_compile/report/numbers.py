"""Numbers formatted for people."""

from __future__ import annotations

from typing import Final

_PREFIXES: Final = ("", "k", "M", "G", "T", "P")


def counted(count: int, noun: str) -> str:
    """``1 region``, ``95 regions``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def scaled(value: float, unit: str = "") -> str:
    """Three digits and a prefix of thousands: ``74.4 TFLOP``, ``11.9 G``."""
    return _scaled(value, 1000, _PREFIXES, unit)


def in_words(count: int) -> str:
    """``11.9 billion``; whole below a million."""
    for power, word in ((9, "billion"), (6, "million")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {word}"
    return f"{count:,}"


def size(count: float) -> str:
    """Bytes, by powers of 1024: ``1.51 MiB``."""
    prefixes = tuple(f"{prefix.upper()}i" if prefix else "" for prefix in _PREFIXES)
    return _scaled(count, 1024, prefixes, "B")


def _scaled(value: float, base: int, prefixes: tuple[str, ...], unit: str) -> str:
    power = 0
    while value >= 999.5 and power < len(prefixes) - 1:
        value, power = value / base, power + 1
    text = f"{value:.3g}" if value < 999.5 else f"{value:.0f}"
    return f"{text} {prefixes[power]}{unit}".rstrip()
