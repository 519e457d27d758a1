"""The outcome as JUnit XML, one test case a limit; what Jenkins and GitLab read.

It keeps to both schemas in use, that of Jenkins' xUnit plugin and that of Ant's JUnit
task. The second wants every element and attribute that is written here, in this order.
"""

from __future__ import annotations

import platform
import re
from dataclasses import asdict
from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from rfc_compile.tools.checking.limits import Verdict
from rfc_compile.tools.checking.outcome import Outcome

_PACKAGE: Final = "rfc-compile.check"
_NOT_IN_XML: Final = re.compile(
    "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)


def junit(outcome: Outcome) -> str:
    """The whole file."""
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
