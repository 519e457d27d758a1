"""What cannot be done while running: the forward as Dynamo gave it takes over.

The state cannot be allocated: this call runs uncached. The inner backend refuses one of
the graphs of a step: so do this call and all that follow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from rfc_compile.errors import InnerBackendFailed, NoRoomForState
from rfc_compile.observe import GraphReport
from rfc_compile.torch_internals import CompiledGraph


class OrUncached:
    """A dispatcher that gives way to the plain forward, and says why."""

    def __init__(
        self,
        dispatcher: CompiledGraph,
        make_plain: Callable[[], CompiledGraph],
        report: GraphReport,
    ) -> None:
        self._dispatcher: CompiledGraph | None = dispatcher
        self._make_plain = make_plain
        self._plain: CompiledGraph | None = None
        self._report = report
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Sequence[Any]:
        """One forward: outputs as Dynamo's graph would return them."""
        dispatcher = self._dispatcher
        if dispatcher is not None:
            try:
                return dispatcher(*arguments)
            except NoRoomForState as full:
                reason = f"such calls run uncached: {full.reason}"
            except InnerBackendFailed as failed:
                self._dispatcher = None  # frees the state
                reason = f"this forward runs uncached: {failed.reason}"
            self._report.fall_back(reason)
        with self._lock:
            if self._plain is None:
                self._plain = self._make_plain()
        return self._plain(*arguments)
