"""The outcome as JSON: for machines, and as the baseline of later checks.

    {"kind": "rfc-compile check", "passed": true, "limits": [...], ...
     "schema": 1, "options": {...}, "measured": {...}, "fingerprint": {...}}

The last four are those of a tuned file, `rfc.json`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any, Final

from rfc_compile.config.tuned_file import Tuned
from rfc_compile.tools.checking.outcome import Outcome

KIND: Final = "rfc-compile check"


def record(outcome: Outcome) -> str:
    """The whole file; a number that is none (NaN) stands as null."""
    written = {
        "kind": KIND,
        "passed": outcome.passed,
        "target": outcome.target,
        "config": outcome.config,
        "limits": [asdict(verdict) for verdict in outcome.verdicts],
        "notes": outcome.notes,
        "seconds": round(outcome.seconds, 3),
        "environment": asdict(outcome.environment),
        **Tuned(outcome.options, outcome.measured, outcome.fingerprint).record(),
    }
    return json.dumps(_finite(written), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
