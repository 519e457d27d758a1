"""One check: options drawn with, next to the uncached model, and judged.

    target, Config, Rules -> reference images -> Trial -> verdicts -> Outcome

The command and the fixture for pytest both come down to `check`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from rfc_compile.config.fingerprint import Fingerprint
from rfc_compile.config.options import Options
from rfc_compile.config.tuned_file import Tuned
from rfc_compile.errors import OptionError
from rfc_compile.tools.checking.baseline import Baseline, baseline_limits
from rfc_compile.tools.checking.limits import Limit, Verdict, judge, make_limits
from rfc_compile.tools.checking.outcome import Outcome
from rfc_compile.tools.measure.environment import environment
from rfc_compile.tools.measure.reference import draw_reference
from rfc_compile.tools.measure.target import Target
from rfc_compile.tools.measure.trial import Trial, measure

SEEDS: Final = 2
"""How many are drawn."""

REPEATS: Final = 5
"""Timed pairs of runs."""

TOLERANCE: Final = 0.05
"""How much worse than the baseline, as a share."""

OWN_TOLERANCE: Final = 0.10
"""The same for a tuned file's own numbers, which are of other images."""

OTHERS: Final = ("speedup", "psnr_min")
"""Of a tuned file's own numbers those that another machine, or other images, change."""

LEAST: Final = {"max_graph_breaks": 0, "max_recompiles": 0}
"""The limits where nobody gives one."""


@dataclass(frozen=True)
class Config:
    """The options to check: what they are called, and the tuned file they stand in."""

    name: str = "default options"
    options: Mapping[str, Any] = field(default_factory=dict)
    tuned: Tuned | None = None


def make_config(source: str | Path | Mapping[str, Any] | None) -> Config:
    """The options of a tuned file, a dict of options, or None for the defaults."""
    if source is None:
        return Config()
    if isinstance(source, Mapping):
        Options.from_mapping(source)
        return Config("given options", dict(source))
    tuned = Tuned.read(source)
    return Config(Path(source).name, tuned.options, tuned)


@dataclass(frozen=True)
class Rules:
    """What must hold.

    Attributes:
        limits: those that the user gave.
        baseline: an earlier run, None for none.
        tolerance: how much worse than it a number may be, as a share; None for
            `TOLERANCE`, or `OWN_TOLERANCE` where it applies.
        strict: another model or sampler than that of the file or baseline is a miss.
        allow_uncached: a model that is not cached, or not at every call, is no miss.
        timed: whether runs are timed though no limit asks for it.
    """

    limits: tuple[Limit, ...] = ()
    baseline: Baseline | None = None
    tolerance: float | None = None
    strict: bool = False
    allow_uncached: bool = False
    timed: bool = False


def check(
    target: Target,
    config: Config,
    rules: Rules,
    *,
    seeds: Sequence[int] = range(SEEDS),
) -> Outcome:
    """Draw with and without the options, and judge.

    Both are timed, where that is wanted, with the inner backend of the options.
    """
    begin = time.perf_counter()
    if rules.strict and config.tuned is None and rules.baseline is None:
        raise OptionError("strict needs a tuned file or a baseline to be the same as")
    limits, notes = _chosen(config, rules)
    timed = rules.timed or any(limit.quantity.timed for limit in limits)
    reference = draw_reference(target, seeds)
    repeats = REPEATS if timed else 0
    inner = Options.from_mapping(config.options).inner
    trial = measure(target, config.options, reference, repeats=repeats, inner=inner)
    fingerprint = target.fingerprint(trial.measured.steps)
    differing = _differences(config, rules, fingerprint)
    if not rules.strict:
        notes += [f"not as it was tuned: {line}" for line in differing]
    return Outcome(
        target=target.name,
        config=config.name,
        options=config.options,
        measured=trial.measured,
        fingerprint=fingerprint,
        verdicts=tuple(_verdicts(trial, limits, rules, differing)),
        notes=tuple(notes),
        seconds=time.perf_counter() - begin,
        ended=datetime.now(timezone.utc),
        environment=environment("rfc-compile"),
    )


def _chosen(config: Config, rules: Rules) -> tuple[list[Limit], list[str]]:
    """The limits, and a note where the user gave none."""
    limits = list(rules.limits)
    if rules.baseline is not None:
        tolerance = TOLERANCE if rules.tolerance is None else rules.tolerance
        limits += baseline_limits(rules.baseline, tolerance)
    if limits:
        return limits, []
    own = _own_baseline(config)
    if own is not None:
        tolerance = OWN_TOLERANCE if rules.tolerance is None else rules.tolerance
        limits += baseline_limits(own, tolerance, without=OTHERS)
        note = f"no limit was given: those are the numbers in {config.name}"
    else:
        limits += make_limits(LEAST)
        note = "no limit was given: only graph breaks and recompilations are limited"
    return limits, [note]


def _own_baseline(config: Config) -> Baseline | None:
    """What the tuned file says was measured with its options."""
    if config.tuned is None or config.tuned.measured is None:
        return None
    return Baseline(config.name, config.tuned.measured, config.tuned.fingerprint)


def _differences(config: Config, rules: Rules, found: Fingerprint) -> list[str]:
    """How the model and sampler differ from those of the file and the baseline."""
    lines = [
        line
        for source in (config.tuned, rules.baseline)
        if source is not None
        for line in source.fingerprint.differences(found)
    ]
    return list(dict.fromkeys(lines))


def _verdicts(
    trial: Trial, limits: Sequence[Limit], rules: Rules, differing: Sequence[str]
) -> Iterator[Verdict]:
    """Those that are always there, then one for every limit.

    Without the first a gate opens by accident: a model that runs uncached draws perfect
    images.
    """
    yield _cached(trial, allow_uncached=rules.allow_uncached)
    yield _finite(trial)
    if rules.strict:
        yield _same_model(differing)
    nothing = "" if rules.allow_uncached else _nothing_cached(trial)
    for limit in limits:
        value = getattr(trial.measured, limit.quantity.field)
        yield judge(limit, value, nothing if limit.quantity.of_caching else "")


def _nothing_cached(trial: Trial) -> str:
    """Why no step was cached; empty where some were."""
    if trial.measured.nfc < trial.measured.steps:
        return ""
    reasons = "; ".join(trial.uncached) or "every step was computed in full"
    return f"nothing was cached: {reasons}"


def _cached(trial: Trial, *, allow_uncached: bool) -> Verdict:
    """Steps are cached, and no call ran uncached for want of something."""
    nfc, steps = trial.measured.nfc, trial.measured.steps
    reason = _nothing_cached(trial)
    if not reason and trial.uncached:
        reason = f"calls ran uncached: {'; '.join(trial.uncached)}"
    reason = "" if allow_uncached else reason
    wanted = "not required" if allow_uncached else "some, and no call uncached"
    value = f"{steps - nfc:.4g} of {steps}"
    return Verdict("cached", "cached steps", wanted, value, not reason, reason)


def _finite(trial: Trial) -> Verdict:
    """The images drawn with caching hold numbers alone."""
    bad = sum(not bool(run.images.isfinite().all()) for run in trial.runs)
    reason = f"{bad} of {len(trial.runs)} batches hold NaN or Inf" if bad else ""
    value = reason or "finite"
    return Verdict("finite", "images with caching", "finite", value, not bad, reason)


def _same_model(differing: Sequence[str]) -> Verdict:
    """Model and sampler are those of the tuned file and of the baseline."""
    value = f"{len(differing)} differences" if differing else "the same"
    label, passed = "model and sampler", not differing
    return Verdict(
        "fingerprint", label, "the same", value, passed, "; ".join(differing)
    )
