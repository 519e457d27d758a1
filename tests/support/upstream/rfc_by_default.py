"""A pytest plugin: what others' tests compile is compiled by ``rfc``.

    make upstream DIFFUSERS=path INNER=eager

runs the checks of diffusers' ``TorchCompileTesterMixin`` (graph breaks, recompilations,
repeated blocks, offloaded groups, several shapes) of a source tree: ``torch.compile``
without a backend stands for ``backend="rfc"`` there. Other tests are left out, and so
is the one of ahead-of-time compilation, which takes no backend. Where there is no
accelerator the checks run all the same, but for offloading, which needs one.

A check that rfc had no part in fails.
"""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import rfc_compile

MIXIN = "TorchCompileTesterMixin"
NOT_OURS = "test_compile_works_with_aot"
NEEDS_ONE = "test_compile_with_group_offloading"
OPTIONS = {"inner": os.environ.get("RFC_INNER", "inductor"), "min_coverage": 0.0}

seen: dict[str, rfc_compile.Explanation] = {}
"""What was found in each test, by its id."""


def pytest_configure() -> None:
    """Make rfc the default backend, also of ``Module.compile``."""
    original = torch.compile

    @functools.wraps(original)
    def by_rfc(model: Any = None, **settings: Any) -> Any:
        if settings.get("mode") is not None:  # torch takes one of the two
            return original(model, **{"backend": "rfc", **settings})
        return original(model, **{"backend": "rfc", "options": OPTIONS, **settings})

    torch.compile = by_rfc


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Keep the checks of the mixin, whatever they say of accelerators."""
    kept, others = [], []
    for item in items:
        (kept if _is_check(item) else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = kept
    for item in kept:
        for node, mark in list(item.iter_markers_with_node("skipif")):
            if "accelerator" in mark.kwargs.get("reason", ""):
                node.own_markers.remove(mark)


def _is_check(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or item.cls is None:
        return False
    left_out = {NOT_OURS}
    if not torch.accelerator.is_available():
        left_out.add(NEEDS_ONE)
    bases = {base.__name__ for base in item.cls.__mro__}
    return item.originalname not in left_out and MIXIN in bases


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """See what rfc has found, before the test's teardown forgets it."""
    gc.collect()  # what earlier tests compiled is no longer there
    try:
        yield
    finally:
        found = seen[item.nodeid] = rfc_compile.explain()
    assert found.graphs, "nothing was compiled by rfc"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many checks held a region, and why others ran uncached."""
    cached = [found for found in seen.values() if found.regions]
    regions = sum(len(found.regions) for found in cached)
    terminalreporter.write_sep(
        "-", f"rfc: {len(seen)} checks, {len(cached)} cached, {regions} regions"
    )
    for test, found in seen.items():
        for reason in found.uncached_reasons:
            terminalreporter.write_line(f"{test}: {reason}")
