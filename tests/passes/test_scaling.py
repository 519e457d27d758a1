"""The passes' own work grows with the number of blocks, not with its square."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import capture as capturing
import pytest
from capture import capture
from models import Stack, build, timesteps, tokens

from rfc_compile import passes
from rfc_compile.passes.rewrites.fold_repeats import fold_repeats

pytestmark = pytest.mark.slow

FOLDER = str(Path(passes.__file__).parent)

PAIRWISE = {"regions.py", "granularity.py"}
"""They compare every region with every other one, by a bit test."""


@contextmanager
def counting(lines: Counter[str]) -> Iterator[None]:
    """Count the lines that run in each file of the passes, every round of a loop."""

    def enter(frame: FrameType, event: str, argument: object) -> Any:
        return step if frame.f_code.co_filename.startswith(FOLDER) else None

    def step(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            lines[Path(frame.f_code.co_filename).name] += 1
        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)


def work(monkeypatch: pytest.MonkeyPatch, blocks: int) -> Counter[str]:
    """Lines that run for a model of so many blocks, by file."""
    lines, run_passes = Counter[str](), capturing._run_passes

    def counted(*arguments: Any) -> None:
        with counting(lines):
            run_passes(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(capturing, "_run_passes", counted)
        model = build(type("Deep", (Stack,), {"depth": blocks}))
        captured = capture(model, tokens(), timesteps(9))
    assert len(captured.found.regions.found) == 2 * blocks
    return lines


def test_work_is_linear_in_the_number_of_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few, some, many = (work(monkeypatch, blocks) for blocks in (4, 8, 16))
    assert "long_skips.py" in many
    for file in set(many) - PAIRWISE:
        assert many[file] - some[file] <= 2.2 * (some[file] - few[file]) + 50, file


def nodes_to_compile(blocks: int) -> int:
    """Nodes of a cached graph but its inputs, those of a submodule once."""
    model = build(type("Deep", (Stack,), {"depth": blocks}))
    gm = fold_repeats(capture(model, tokens(), timesteps(9)).whole.cached.gm)
    graphs = [gm.graph, *(child.graph for child in gm.children())]
    return sum(node.op != "placeholder" for graph in graphs for node in graph.nodes)


def test_a_block_more_is_a_call_more() -> None:
    few, many = nodes_to_compile(4), nodes_to_compile(10)
    assert few > 100
    assert many - few == 6 * 3  # the submodule, its call, its result
