"""What must hold of every check, whatever its limits: verdicts that are always there.

Without them a gate opens by accident: a model that runs uncached draws perfect images.
"""

from __future__ import annotations

from collections.abc import Sequence

from rfc_compile.tools.checking.limits import Verdict
from rfc_compile.tools.measure.trial import Trial


def nothing_cached(trial: Trial) -> str:
    """Why no step was cached; empty where some were."""
    if trial.measured.nfc < trial.measured.steps:
        return ""
    reasons = "; ".join(trial.uncached) or "every step was computed in full"
    return f"nothing was cached: {reasons}"


def cached(trial: Trial, *, allow_uncached: bool) -> Verdict:
    """Steps are cached, and no call ran uncached for want of something."""
    nfc, steps = trial.measured.nfc, trial.measured.steps
    reason = nothing_cached(trial)
    if not reason and trial.uncached:
        reason = f"calls ran uncached: {'; '.join(trial.uncached)}"
    reason = "" if allow_uncached else reason
    wanted = "not required" if allow_uncached else "some, and no call uncached"
    value = f"{steps - nfc:.4g} of {steps}"
    return Verdict("cached", "cached steps", wanted, value, not reason, reason)


def finite(trial: Trial) -> Verdict:
    """The images drawn with caching hold numbers alone."""
    bad = sum(not bool(run.images.isfinite().all()) for run in trial.runs)
    reason = f"{bad} of {len(trial.runs)} batches hold NaN or Inf" if bad else ""
    value = reason or "finite"
    return Verdict("finite", "images with caching", "finite", value, not bad, reason)


def same_model(differing: Sequence[str]) -> Verdict:
    """Model and sampler are those of the tuned file and of the baseline."""
    value = f"{len(differing)} differences" if differing else "the same"
    label, passed = "model and sampler", not differing
    return Verdict(
        "fingerprint", label, "the same", value, passed, "; ".join(differing)
    )
