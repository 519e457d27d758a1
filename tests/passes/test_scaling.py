"""The passes' own work grows with the number of blocks, not with its square."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import helpers
import pytest
from helpers import capture
from models import Stack, build, timesteps, tokens

from rfc_compile import passes

FOLDER = str(Path(passes.__file__).parent)


class Lines:
    """Counts the lines that run in the files of the passes, every round of a loop."""

    count = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._step if frame.f_code.co_filename.startswith(FOLDER) else None

    def _step(self, frame: FrameType, event: str, argument: object) -> Any:
        self.count += event == "line"
        return self._step


def work(monkeypatch: pytest.MonkeyPatch, blocks: int) -> int:
    """Lines of the passes that a model of so many blocks takes."""
    lines, run_passes = Lines(), helpers._run_passes

    def counted(*arguments: Any) -> None:
        with lines.counting():
            run_passes(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(helpers, "_run_passes", counted)
        captured = capture(
            build(type("Deep", (Stack,), {"depth": blocks})), tokens(), timesteps(9)
        )
    assert len(captured.found.regions.found) == 2 * blocks
    return lines.count


def test_work_is_linear_in_the_number_of_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few, some, many = (work(monkeypatch, blocks) for blocks in (6, 12, 24))
    assert many - some < 2.2 * (some - few)
