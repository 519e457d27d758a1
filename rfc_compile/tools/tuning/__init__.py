"""Searching for options: `rfc-compile tune` and `rfc_compile.tune`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rfc_compile.config.tuned_file import Tuned

MINUTES: Final = 8.0
"""How long a search takes at most, unless more time is given."""


def tune(
    source: Any,
    *,
    target_speedup: float | None = None,
    target_nfc: float | None = None,
    min_psnr: float | None = None,
    min_ssim: float | None = None,
    settings: Any = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    seeds: int = 3,
    time_limit: float | None = MINUTES,
    inner: str = "inductor",
    output: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Tuned:
    """Search for the full steps that are fast or close enough.

        tuned = rfc_compile.tune(pipe, target_speedup=2.5)
        pipe.transformer.compile(backend="rfc", options=dict(tuned.options))
        tuned.save("rfc.json")

    Without a limit, the front of speed and quality is searched, and the options at its
    knee are returned. Needs the extra `tune`.

    Args:
        source: a pipeline of diffusers; a pair (model, sample), where
            `sample(model, seed)` draws images (B, C, H, W) in [-1, 1] or latents; the
            name of the bundled model or of a pipeline's folder; "module:factory".
        target_speedup: over the uncached model under the same inner backend, at least.
        target_nfc: full computations of a run, at most.
        min_psnr: mean over the images, in dB.
        min_ssim: mean over the images.
        settings: steps, guidance, prompts and the like
            (`rfc_compile.tools.measure.target.Settings`).
        options: options that are not searched, as `{"granularity": "block"}`.
        seed: of the first image.
        seeds: runs that the search compares; the finals are measured on four more.
        time_limit: in minutes; None for no limit.
        inner: the inner backend, whose graphs are timed.
        output: a folder for `rfc.json`, the plot, the report and the study.
        resume: go on with the study in that folder.
        progress: tell on the error stream what is done.

    Raises:
        OptionError: a wrong argument, or a folder that cannot be written to.
        TargetError: nothing can be measured with this model and sampler.
        GoalError: nothing meets the limits; it holds what comes closest.
    """
    from rfc_compile.tools.measure.target import resolve_target
    from rfc_compile.tools.tuning.goal import Goal
    from rfc_compile.tools.tuning.runner import run_study
    from rfc_compile.tools.tuning.study import Plan

    goal = Goal(target_speedup, target_nfc, min_psnr, min_ssim)
    plan = Plan(
        seed=seed,
        seeds=seeds,
        time_limit=time_limit,
        fixed=dict(options or {}),
        inner=inner,
        output=None if output is None else Path(output),
        resume=resume,
    )
    study = run_study(resolve_target(source, settings), goal, plan, show=progress)
    study.raise_if_missed()
    return study.tuned
