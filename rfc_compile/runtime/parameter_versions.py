"""Whether the parameters of a layer have changed since the steps before.

    other tensors             another layer                   (runtime.session_table)
    written to in place       load_state_dict, copy_            their version counters
    a number of a module      the scale of an adapter           its value
    a whole adapter swapped   peft's hotswap, by way of .data   reported by
                                                  (rfc_compile.integrations.adapters)

Kept values are valid only for the parameters that they were computed with: a branch
continues only while its parameter version is unchanged. Other writes to ``tensor.data``
cannot be detected; call ``rfc_compile.reset(model)`` after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from torch import Tensor

from rfc_compile.graph_report import GraphReport
from rfc_compile.runtime.graph_inputs import picker
from rfc_compile.schedules.decision import Decision

ParameterVersion = tuple[Any, ...]
"""The version of the parameters of a call; equal for unchanged parameters."""

MANY_CHANGES = 3
"""Changes of the parameters without a cached step between them before a warning."""


class ParameterVersions:
    """Reads the weights among the arguments of a graph.

    ``owned`` are the positions of what belongs to modules and is neither parameter nor
    buffer: numbers, and tensors kept as attributes.
    """

    def __init__(self, owned: Sequence[int]) -> None:
        self._owned = picker(owned)

    def read(
        self, static: Sequence[Tensor], arguments: Sequence[Any]
    ) -> ParameterVersion:
        """The version of a call; reads no values of tensors on an accelerator.

        ``static`` are the parameters and buffers among the arguments.
        """
        try:
            written = sum(map(_counter, static))
        except RuntimeError:  # tensors made in inference mode count nothing
            written = sum(map(version_of, static))
        return written, *map(_owned_reading, self._owned(arguments))


class ParameterChangeCounter:
    """Counts changes of the weights without a cached step between them."""

    def __init__(self, report: GraphReport) -> None:
        self._report = report
        self._count = 0

    def note(self, decision: Decision) -> None:
        """A step has been decided."""
        if not decision.full:
            self._count = 0
        elif decision.reason == "weights":
            self._count += 1
            if self._count == MANY_CHANGES:
                self._report.fall_back(
                    "the weights, or numbers of modules as an adapter's scale, change "
                    "from step to step: such steps run uncached"
                )


_counter = attrgetter("_version")


def version_of(tensor: Tensor) -> int:
    """How often a tensor has been written to, 0 if not counted."""
    return 0 if tensor.is_inference() else _counter(tensor)


def _owned_reading(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return None
    if value.ndim == 0 and value.is_cpu:
        return value.item()  # Dynamo passes a module's numbers as such tensors
    return version_of(value)
