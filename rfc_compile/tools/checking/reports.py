"""The outcome of a check as JSON, JUnit XML and Markdown, and the files of it.

JSON is for machines, and the baseline of later checks:

    {"kind": "rfc-compile check", "passed": true, "limits": [...], ...
     "schema": 1, "options": {...}, "measured": {...}, "fingerprint": {...}}

The last four are those of a tuned file, `rfc.json`. JUnit XML has one test case a
limit; Jenkins and GitLab read it. It keeps to both schemas in use, that of Jenkins'
xUnit plugin and that of Ant's JUnit task. The second wants every element and attribute
that is written here, in this order. Markdown is GitHub's, for a step's summary or a
comment.
"""

from __future__ import annotations

import html
import json
import math
import os
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from rfc_compile.config.tuned_file import Tuned
from rfc_compile.errors import OptionError
from rfc_compile.io.files import check_writable, make_folder, replace_file
from rfc_compile.tools.checking.limits import Verdict
from rfc_compile.tools.checking.outcome import Outcome
from rfc_compile.tools.measure.environment import Grid

KIND: Final = "rfc-compile check"

_PACKAGE: Final = "rfc-compile.check"
_NOT_IN_XML: Final = re.compile(
    "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)

_MARKS: Final = {"passed": ":white_check_mark: passed", "missed": ":x: missed"}
_ACTIVE: Final = re.compile(r"([\\`*_{}\[\]#|~])")


def record(outcome: Outcome) -> str:
    """As JSON; a number that is none (NaN) stands as null."""
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


def junit(outcome: Outcome) -> str:
    """As JUnit XML."""
    root = Element("testsuites")
    suite = SubElement(root, "testsuite", _suite_attributes(outcome))
    properties = SubElement(suite, "properties")
    for name, value in _properties(outcome).items():
        SubElement(properties, "property", name=name, value=_clean(value))
    for verdict in outcome.verdicts:
        _add_case(suite, verdict, _clean(f"{_PACKAGE}.{outcome.target}"))
    SubElement(suite, "system-out").text = _clean(str(outcome))
    SubElement(suite, "system-err").text = _clean("\n".join(outcome.notes))
    indent(root)
    text: str = tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _suite_attributes(outcome: Outcome) -> dict[str, str]:
    return {
        "name": _clean(outcome.target),
        "package": _PACKAGE,
        "id": "0",
        "timestamp": outcome.ended.strftime("%Y-%m-%dT%H:%M:%S"),
        "hostname": platform.node() or "localhost",
        "tests": str(len(outcome.verdicts)),
        "failures": str(len(outcome.missed)),
        "errors": "0",
        "skipped": "0",
        "time": f"{outcome.seconds:.3f}",
    }


def _properties(outcome: Outcome) -> dict[str, str]:
    about = asdict(outcome.fingerprint)
    del about["model"]
    options = {f"option.{n}": value for n, value in outcome.options.items()}
    facts = {"config": outcome.config, **about, **options}
    return {name: str(value) for name, value in facts.items()}


def _add_case(suite: Element, verdict: Verdict, classname: str) -> None:
    case = SubElement(suite, "testcase", classname=classname, name=verdict.name)
    case.set("time", "0")
    if not verdict.passed:
        failure = SubElement(case, "failure", type="LimitMissed")
        failure.set("message", _clean(str(verdict)))
        numbers = f"measured: {verdict.value}\nwanted: {verdict.limit}"
        failure.text = _clean(f"{numbers}\n{verdict.reason}")


def _clean(text: str) -> str:
    """Without the characters that XML cannot hold, as those that colour a terminal."""
    return _NOT_IN_XML.sub("\ufffd", text)


def markdown(outcome: Outcome) -> str:
    """As Markdown."""
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


WRITERS: Final[Mapping[str, Callable[[Outcome], str]]] = {
    "json": record,
    "junit": junit,
    "markdown": markdown,
}
"""By the option that names the file."""

SUMMARY_VARIABLE: Final = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True)
class Reports:
    """The files to write, by name of the writer, and one to append the Markdown to."""

    paths: Mapping[str, Path]
    summary: Path | None = None

    def prepare(self) -> None:
        """Make the folders, and see that every file can be written."""
        known: dict[Path, str] = {}
        for name, path in self.paths.items():
            same = known.setdefault(path.resolve(), name)
            if same != name:
                raise OptionError(f"arguments --{same} and --{name} name the same file")
            make_folder(path.parent, f"--{name}")
            check_writable(path, f"--{name}")
        if self.summary is not None:
            check_writable(self.summary, "--github-summary")

    def write(self, outcome: Outcome) -> None:
        """Write every file."""
        try:
            for name, path in self.paths.items():
                replace_file(path, WRITERS[name](outcome))
            if self.summary is not None:
                with self.summary.open("a", encoding="utf-8") as file:
                    file.write(markdown(outcome))
        except OSError as error:
            raise OptionError(f"a report cannot be written: {error}") from error


def step_summary() -> Path:
    """The file that GitHub shows as the summary of the step."""
    path = os.environ.get(SUMMARY_VARIABLE)
    if not path:
        raise OptionError(
            f"argument --github-summary: ${SUMMARY_VARIABLE} is not set; leave it out, "
            "or use --markdown FILE outside GitHub Actions"
        )
    return Path(path)
