"""Trials: full steps on a few seeds, with graphs that run eagerly.

The model is compiled once. What was measured is in the journal, seed by seed, and not
measured again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from torch import nn

from rfc_compile.config.tuned_file import Measured
from rfc_compile.errors import TargetError
from rfc_compile.io.schema import made_of, typed
from rfc_compile.report.explain import explain
from rfc_compile.tools.measure.reference import Reference
from rfc_compile.tools.measure.trial import (
    Run,
    compare,
    compile_model,
    decide_by,
    draw_cached,
    forget_compiled,
)
from rfc_compile.tools.tuning.climb import Mask
from rfc_compile.tools.tuning.journal import Journal
from rfc_compile.tools.tuning.progress import Clock
from rfc_compile.tools.tuning.space import Setting, describe, mask_setting

BEHIND = 1.0
"""In dB: a mask that is so far behind on its first n seeds, over n, gets no more."""


@dataclass(frozen=True)
class Tried:
    """Full steps, where they come from, and their numbers seed by seed."""

    kind: str
    mask: Mask
    setting: Setting
    each: tuple[Measured, ...]

    @property
    def measured(self) -> Measured:
        """The numbers of all seeds together."""
        return combined(self.each)

    @property
    def psnr(self) -> float:
        """Mean over the seeds, in dB."""
        return self.measured.psnr

    def beats(self, rival: Tried) -> bool:
        """Whether it is better by more than the standard error over the seeds.

        What is better by less is so for these seeds alone.
        """
        gains = _gains(self.each, rival.each)
        spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
        return statistics.mean(gains) > spread / math.sqrt(len(gains))


@dataclass
class Trials:
    """Measures full steps; knows what a run is like once `begin` was called.

    Attributes:
        graph: the options that the graphs are compiled with.
        reference: of all seeds that trials draw.
        note: called with each action, in one line.
        until: share of the time after which no trial is begun.
        steps: of a run, for one CFG branch; their timesteps are `times`.
        skipped: masks that were not drawn with all seeds.
        done: trials, seeds counted one by one.
    """

    graph: Setting
    reference: Reference
    journal: Journal
    clock: Clock
    note: Callable[[str], None]
    until: float = 1.0
    steps: int = 0
    times: tuple[float, ...] = ()
    skipped: int = 0
    done: int = 0
    _compiled: nn.Module | None = None

    def begin(self) -> None:
        """Learn how many steps a run has, and whether any can be cached."""
        run = self._draw({"schedule": "mask", "full_steps": [0]})
        self.steps = round(run.steps)
        self.times = tuple(d.timestep for d in run.decisions if d.branch == 0)
        if run.nfc < run.steps:
            return
        assert self._compiled is not None
        known = "; ".join(dict.fromkeys(explain(self._compiled).uncached_reasons))
        reason = known or f"all of its {self.steps} steps change the latent too much"
        raise TargetError(
            f"{self.reference.target.name}: nothing can be cached: {reason}"
        )

    def close(self) -> None:
        """Free what was compiled."""
        self._compiled = None
        forget_compiled()

    def full_steps_of(self, schedule: Setting) -> Mask:
        """Which steps of the first seed a schedule computes in full."""
        key = {"full steps of": {**self.graph, **schedule}}
        known = self.journal.get(key, partial(typed, list[int]))
        if known is not None:
            return tuple(known)
        self.clock.check(self.until)
        own = [d for d in self._draw(schedule).decisions if d.branch == 0]
        mask = tuple(step for step, decision in enumerate(own) if decision.full)
        self.journal.add(key, list(mask))
        return mask

    def measure(
        self, kind: str, mask: Mask, rival: Tried | None = None
    ) -> Tried | None:
        """A mask's numbers; None if it is far behind a rival on its first seeds."""
        known = self.times if len(self.times) == self.steps else ()
        setting = {**self.graph, **mask_setting(mask, known)}
        found: list[Measured] = []
        for seed in self.reference.seeds:
            found.append(self._one(mask, setting, seed))
            gains = [] if rival is None else _gains(found, rival.each)
            if gains and statistics.mean(gains) < -BEHIND / len(gains):
                self.skipped += 1
                return None
        return Tried(kind, mask, setting, tuple(found))

    def _one(self, mask: Mask, setting: Setting, seed: int) -> Measured:
        key = {"mask": list(mask), "graph": dict(self.graph), "seed": seed}
        known = self.journal.get(key, partial(made_of, Measured))
        if known is not None:
            return known
        self.clock.check(self.until)
        self.note(describe(setting))
        compiled = self._following(setting)
        self.done += 1
        measured = compare(self.reference.of([seed]), compiled).measured
        self.journal.add(key, asdict(measured))
        return measured

    def _draw(self, schedule: Setting) -> Run:
        compiled = self._following({**self.graph, **schedule})
        return draw_cached(self.reference.target, compiled, self.reference.seeds[0])

    def _following(self, setting: Setting) -> nn.Module:
        """The model with caching, by the schedule of a setting."""
        if self._compiled is None:
            self.close()
            target = self.reference.target
            self._compiled = compile_model(target.model, "eager", setting)
        decide_by(self._compiled, setting)
        return self._compiled


def _gains(each: Sequence[Measured], others: Sequence[Measured]) -> list[float]:
    """In dB, of the seeds that both have."""
    return [one.psnr - other.psnr for one, other in zip(each, others, strict=False)]


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
