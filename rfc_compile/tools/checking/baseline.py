"""An earlier measurement as limits: nothing may be worse by more than a tolerance.

A baseline is the JSON report of an earlier check, or a tuned file, `rfc.json`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rfc_compile.config.fingerprint import Fingerprint
from rfc_compile.config.tuned_file import Measured, Tuned
from rfc_compile.errors import OptionError, TunedFileError
from rfc_compile.io.json_files import Unexpected, read_json
from rfc_compile.io.schema import check_names
from rfc_compile.tools.checking.limits import QUANTITIES, Limit, loosened
from rfc_compile.tools.checking.reports import KIND

_SHARED: Final = ("schema", "options", "measured", "fingerprint")
_OTHERS: Final = ("kind", "passed", "target", "config", "limits", "notes", "seconds")


@dataclass(frozen=True)
class Baseline:
    """What an earlier run measured, with the name of its file."""

    name: str
    measured: Measured
    fingerprint: Fingerprint


def read_baseline(path: str | Path) -> Baseline:
    """The baseline in a file."""
    path = Path(path)
    record = read_json(path)
    if isinstance(record, dict) and record.get("kind") == KIND:
        if record.get("passed") is not True:
            raise TunedFileError(
                f"{path}: $.passed is not true: this check missed a limit; allowed: "
                "the report of a check that passed"
            )
        try:
            check_names("$", record, (*_SHARED, *_OTHERS, "environment"), ())
        except Unexpected as error:
            raise TunedFileError(f"{path}: {error}") from error
        record = {name: record[name] for name in _SHARED if name in record}
    tuned = Tuned.from_record(record, path)
    if tuned.measured is None:
        raise TunedFileError(f"{path}: $.measured is null: nothing to compare with")
    return Baseline(path.name, tuned.measured, tuned.fingerprint)


def baseline_limits(
    baseline: Baseline, tolerance: float, *, without: Collection[str] = ()
) -> tuple[Limit, ...]:
    """A limit for every number that the earlier run measured.

    Each may be worse by ``tolerance``, a share of it; the fields ``without`` are not
    compared.
    """
    limits = []
    for quantity in QUANTITIES:
        value = getattr(baseline.measured, quantity.field)
        if value is None or quantity.field in without:
            continue
        share = f"{100 * tolerance:g}% tolerance"
        origin = f"{baseline.name}: {quantity.show(value)}, {share}"
        limits.append(Limit(quantity, loosened(quantity, value, tolerance), origin))
    return tuple(limits)


def parse_tolerance(value: object) -> float:
    """A share from 0 up to, not including, 1; a text may give it in percent."""
    share = math.nan
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(%?)", value, re.ASCII)
        if found is not None:
            share = float(found[1]) / (100 if found[2] else 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        share = float(value)
    if not 0 <= share < 1:
        raise OptionError(
            f"tolerance={value!r} is not allowed; allowed: a share from 0 up to 1, as "
            "'5%' or 0.05"
        )
    return share
