"""A row of a batch and the step that it is taken for."""

from __future__ import annotations

from dataclasses import dataclass

from rfc_compile.estimators.step_signal import Signal
from rfc_compile.runtime.per_sample.matching import Sample
from rfc_compile.runtime.step import PlacedStep


@dataclass(frozen=True)
class Placed:
    """A row that is taken for a step of a sample.

    Attributes:
        sample: the sample.
        call: its call, with the arguments of its row.
        signal: of the step; its error is known behind the probe.
        reason: why it is full or cached, once that is decided.
    """

    sample: Sample
    call: PlacedStep
    signal: Signal
    reason: str = ""
