"""Values on the command line that several commands take."""

from __future__ import annotations

import ast
import math
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or not text.isascii() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def number(text: str, least: float = 0) -> float:
    """A number of at least `least`, infinity among them."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= least:
        raise ArgumentTypeError(f"{text!r} is not a number of at least {least:g}")
    return value


def name_and_value(text: str) -> tuple[str, Any]:
    """A pair `name=value`; the value as in Python, or else a string."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ArgumentTypeError(f"{text!r} is not of the form name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def add_named_values(parser: ArgumentParser, option: str, meaning: str) -> None:
    """Add an option of pairs `NAME=VALUE`."""
    parser.add_argument(
        option,
        type=name_and_value,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"{meaning}; may be repeated",
    )
