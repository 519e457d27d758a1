"""The outcome as GitHub-flavoured Markdown, for a step's summary or a comment."""

from __future__ import annotations

import html
import json
import re
from typing import Final

from rfc_compile.tools.checking.outcome import Outcome
from rfc_compile.tools.measure.environment import Grid

_MARKS: Final = {"passed": ":white_check_mark: passed", "missed": ":x: missed"}
_ACTIVE: Final = re.compile(r"([\\`*_{}\[\]#|~])")


def markdown(outcome: Outcome) -> str:
    """The whole page."""
    grid = outcome.grid()
    rows = [
        [*map(_escape, cells), _MARKS.get(verdict, "")] for *cells, verdict in grid.rows
    ]
    settings = json.dumps(dict(outcome.options), indent=1, default=str)
    return "\n".join(
        (
            f"## rfc-compile check: {_escape(outcome.title)}",
            "",
            Grid("", grid.header, rows).body(),
            "",
            *(f"- {_escape(line)}" for line in outcome.lines()),
            "",
            "<details><summary>Options and environment</summary>",
            "",
            f"{_escape(outcome.config)}:",
            "",
            *(f"    {line}" for line in settings.splitlines()),
            "",
            *(_escape(line) for line in str(outcome.environment).splitlines()),
            "",
            "</details>",
            "",
        )
    )


def _escape(text: str) -> str:
    """Text that is shown as it is, on one line."""
    line = " ".join(text.split())
    return _ACTIVE.sub(r"\\\1", html.escape(line, quote=False))
