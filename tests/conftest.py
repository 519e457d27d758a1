"""Shared fixtures: a clean compiler before every test, one compile cache for all.

At the end it is said how many random examples ran, and from which seed.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import fuzzing
import pytest
import torch
from torch._logging._internal import trace_log

import rfc_compile
from rfc_compile.runtime.call_context import current_context, leave_run

os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR",
    str(Path(__file__).resolve().parent.parent / ".cache" / "inductor"),
)

# pytest gives its handlers to every logger that does not propagate, and with a handler
# torch writes each graph out as text, again and again: a tenth of the time of tracing.
trace_log.propagate = True

# Dynamo times the guards of all that it compiles, with flushed caches, for its log: a
# twentieth of the time of tracing.
torch._dynamo.guards.profile_guard_manager = lambda *_: 0.0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test by its folder, and nightly ones, before `-m` selects.

    `nightly.txt` holds the beginnings of node ids: slow cases of which `make test` runs
    another one.
    """
    here = Path(__file__).parent
    nightly = tuple((here / "nightly.txt").read_text().split())
    for item in items:
        path = item.path.relative_to(here)
        item.add_marker(path.parts[0])
        own = f"tests/{path}::{item.nodeid.partition('::')[2]}"
        if own.startswith(nightly):
            item.add_marker(pytest.mark.nightly)


def pytest_collection_finish() -> None:
    """Collect garbage seldom: by Python's thresholds it takes a fifth of tracing."""
    gc.collect()
    gc.freeze()  # what is imported by now stays
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> Iterator[None]:
    """What a module leaves (code, caches of torch) is not looked through ever again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def clean_compiler() -> Iterator[None]:
    """No compiled code, cached state or counters from an earlier test."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    rfc_compile.reset()
    yield
    torch._dynamo.reset()
    leave_run(current_context().run)  # one that a test has begun as a pipeline does


@pytest.fixture(autouse=True)
def examples_counted(request: pytest.FixtureRequest) -> Iterator[None]:
    """Note with a test's result how many random examples it ran."""
    before = fuzzing.ran
    yield
    if fuzzing.ran > before:
        examples = fuzzing.ran - before
        request.node.user_properties.append((fuzzing.EXAMPLES, examples))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many there were; their counts come with the teardown of their tests."""
    reports = [r for some in terminalreporter.stats.values() for r in some]
    counts = {
        report.nodeid: value
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "teardown"
        for name, value in report.user_properties
        if name == fuzzing.EXAMPLES
    }
    if counts:
        terminalreporter.write_sep("-", fuzzing.summary(counts))
