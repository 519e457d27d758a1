"""Trials: settings on a few seeds, with graphs that run eagerly.

A model is compiled once for all settings that differ in the schedule alone. What was
measured is in the journal, seed by seed, and not measured again.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from rfc_compile.config.tuned_file import Measured
from rfc_compile.errors import TargetError
from rfc_compile.io.json_files import JSON
from rfc_compile.io.schema import made_of
from rfc_compile.report.explain import explain
from rfc_compile.runtime.registry import dispatchers_of
from rfc_compile.tools.measure.reference import Reference, TooManyFullSteps
from rfc_compile.tools.measure.trial import (
    compare,
    compile_model,
    decide_by,
    draw_cached,
    forget_compiled,
)
from rfc_compile.tools.tuning.clock import Clock
from rfc_compile.tools.tuning.journal import Journal
from rfc_compile.tools.tuning.space import (
    Setting,
    describe,
    graph_part,
    is_static,
    least_nfc,
)

SLACK = 0.5
"""A trial may have up to this many full steps more than it should, on the mean."""


SHARE = 0.7
"""Of the time for trials; the rest is for the times of the best."""


@dataclass(frozen=True)
class Tried:
    """One setting and its numbers on the seeds of the search."""

    kind: str
    setting: Setting
    measured: Measured
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Stopped:
    """A trial that was not drawn to its end: it had too many full steps."""

    stopped: bool = True


@dataclass
class Trials:
    """Measures settings; knows how many steps a run has once `begin` was called.

    Attributes:
        reference: of all seeds that trials draw.
        journal: where numbers are kept.
        clock: when to stop.
        note: is told what is done, in a line.
        steps: of a run, for one CFG branch.
        skipped: trials that could not win and were not drawn to their end.
        done: trials, seeds counted one by one.

    """

    reference: Reference
    journal: Journal
    clock: Clock
    note: Callable[[str], None]
    steps: int = 0
    skipped: int = 0
    done: int = 0
    _graph: dict[str, Any] = field(default_factory=dict)
    _compiled: nn.Module | None = None

    def begin(self, graph: Setting) -> None:
        """Learn how many steps a run has, and whether any can be cached.

        Raises:
            TargetError: none can, with the reason.

        """
        compiled = self.compiled(graph)
        self.decide_by({**graph, "schedule": "rcs", "threshold": 1e9, "warmup": 2})
        run = draw_cached(self.reference.target, compiled, self.reference.seeds[0])
        self.steps = round(run.steps)
        if run.nfc < run.steps:
            return
        found = explain(compiled)
        reasons = "; ".join(dict.fromkeys(found.fallbacks)) or (
            f"all of its {self.steps} steps change the latent too much"
        )
        raise TargetError(
            f"{self.reference.target.name}: nothing can be cached: {reasons}"
        )

    def compiled(self, graph: Setting) -> nn.Module:
        """The model with caching, its graphs eager and with a probe."""
        if self._compiled is None or self._graph != graph:
            self.close()
            self._graph = dict(graph)
            options = {**graph, "schedule": "rcs"}
            self._compiled = compile_model(
                self.reference.target.model, "eager", options
            )
        return self._compiled

    def close(self) -> None:
        """Free what was compiled."""
        self._compiled = None
        forget_compiled()

    def decide_by(self, setting: Setting) -> None:
        """Have the compiled model follow the schedule of a setting.

        A model that has not run has nothing yet that decides, so it runs one call.
        """
        assert self._compiled is not None
        if not dispatchers_of(self._compiled):
            target, seed = self.reference.target, self.reference.seeds[0]
            with contextlib.suppress(TooManyFullSteps):
                draw_cached(target, self._compiled, seed, most_full=0)
        decide_by(self._compiled, setting)

    def measure(
        self,
        kind: str,
        setting: Setting,
        most_nfc: float,
        seeds: Sequence[int] | None = None,
    ) -> Tried | None:
        """A setting's numbers, mean over seeds; None if it has too many full steps.

        Args:
            kind: what the report calls such settings.
            setting: options without `inner`.
            most_nfc: with more full steps it cannot win.
            seeds: of the reference; None for all of them.

        Raises:
            TimeUpError: the time is up.
            TargetError: drawing fails.

        """
        seeds = self.reference.seeds if seeds is None else tuple(seeds)
        if least_nfc(setting, self.steps) > most_nfc + SLACK:
            self.skipped += 1
            return None
        found = []
        for seed in seeds:
            one = self._one(setting, seed, most_nfc)
            if one is None:
                self.skipped += 1
                return None
            found.append(one)
        measured = combined(found)
        if measured.nfc > most_nfc + SLACK:  # the latent jumped, which no option tells
            return None
        return Tried(kind, setting, measured, seeds)

    def _one(self, setting: Setting, seed: int, most_nfc: float) -> Measured | None:
        most = None if is_static(setting) else most_nfc + SLACK
        key = {"trial": dict(setting), "seed": seed, "most": most}
        known = self.journal.get(key, _outcome)
        if known is not None:
            return known if isinstance(known, Measured) else None
        self.clock.check(SHARE)
        self.note(describe(setting))
        compiled = self.compiled(graph_part(setting))
        self.decide_by(setting)
        self.done += 1
        try:
            part = self.reference.of([seed])
            limit = math.inf if most is None else most
            measured = compare(part, compiled, limit).measured
        except TooManyFullSteps:
            self.journal.add(key, asdict(Stopped()))
            return None
        self.journal.add(key, asdict(measured))
        return measured


def _outcome(place: str, value: JSON) -> Measured | Stopped:
    """Of a trial, as the journal has it."""
    if isinstance(value, dict) and "stopped" in value:
        return made_of(Stopped, place, value)
    return made_of(Measured, place, value)


def combined(found: Sequence[Measured]) -> Measured:
    """The numbers of several seeds as those of all of them together."""
    similar = [one.ssim for one in found if one.ssim is not None]
    return replace(
        found[0],
        nfc=statistics.mean(one.nfc for one in found),
        psnr=statistics.mean(one.psnr for one in found),
        psnr_min=min(one.psnr_min for one in found),
        ssim=statistics.mean(similar) if similar else None,
        images=sum(one.images for one in found),
        state_bytes=max(one.state_bytes for one in found),
        graph_breaks=max(one.graph_breaks for one in found),
        recompiles=max(one.recompiles for one in found),
    )
