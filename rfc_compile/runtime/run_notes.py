"""Warnings about runs without a cached step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

from rfc_compile.graph_report import GraphReport
from rfc_compile.runtime.trajectory import Time, Trajectory
from rfc_compile.schedules.base import SAME_LATENT
from rfc_compile.schedules.error_control import NOT_FORETOLD, SKIPPED

SHORT_RUN = 8
"""Runs of fewer steps may be all full without a warning."""

UNLINKED_RUNS = 4
"""Runs in a row that end with their first step before a warning."""

HELD_BACK = 2
"""Up to this step a latent may stand because the sampler multiplied its first output by
zero (CFG-Zero*), not because it is called at several timesteps."""

STAGES = 3
"""Calls of a solver's step at most: a run of so many ends with its first step, too."""

REMEDIES = {
    "new_run": "its latents do not follow from what the model returned: say where runs "
    "begin, by a pipeline or rfc_compile.trajectory(name, num_steps=...)",
    "conditioning": "its prompt or other conditioning changes at every step",
    "warmup": "its latents do not follow from what the model returned at the timestep "
    "before (rolling and streaming diffusion call it at the same timesteps throughout; "
    "with per_sample=True and dynamic=True rows have timesteps of their own)",
    "weights": "its weights change at every step",
    "error_control": "its outputs cannot be predicted well enough (fresh noise, edited "
    "latents, too few steps): preset='fast' asks for less, target_nfc for a number of "
    "full steps whatever the errors",
    "threshold": "its input cannot be predicted well enough (fresh noise, edited "
    "latents, too few steps): target_nfc asks for a number of full steps whatever the "
    "errors, a larger threshold allows more of them",
    SAME_LATENT: "the model is called at several timesteps of one latent (time-step "
    "guidance), so its calls cannot be distinguished",
    SKIPPED: "its prompts or guidance branches take turns, so their errors do not "
    "cancel: guide by the same calls at every step",
}
"""What to do where a whole run was full, by the reason of its steps."""

ASKED_FOR = frozenset({"interval", "mask", "cap", "final"})
"""Reasons of full steps that the options name."""

NO_PROMISE = {
    NOT_FORETOLD: "the error of cached steps cannot be estimated, because the sampler "
    "is not linear in what the model returns (fresh noise, edited latents) or its "
    "latent is not known; leave min_psnr out, or give target_nfc",
    "error_control": "cached steps would err by more than that; ask for less",
}
"""Why all steps of a run with `min_psnr` are full, by the reason of its steps."""

UNEVEN_TIMESTEPS = (
    "the timesteps of a batch's rows, or of its tokens, do not move in proportion: "
    "such steps run uncached (rows, not tokens, are cached at timesteps of their own "
    "with per_sample=True)"
)


def note_end(run: Trajectory, report: GraphReport) -> None:
    """Warn once about a run without a cached step, unless its options ask for that."""
    if run.asked.off:
        return
    full = [made for made in run.decisions if made.full]
    steps = len(full) if run.in_parts else len(run.times)
    if steps < SHORT_RUN or not full:
        return
    reasons = Counter(made.reason for made in full)
    if len(full) < len(run.decisions):
        _note_new_prompts(reasons, steps, report)
        return
    later = [reason for reason, _ in reasons.most_common() if reason != "warmup"]
    if later and later[0] in ASKED_FOR:
        return
    most, _ = reasons.most_common(1)[0]
    held = [made.step for made in full if made.reason == SAME_LATENT]
    most = SAME_LATENT if max(held, default=0) > HELD_BACK else most
    if most == "timesteps":  # has been noted
        return
    wanted = None if run.schedule is None else run.schedule.options.min_psnr
    if wanted is not None and most in NO_PROMISE:
        report.warn(
            f"min_psnr={wanted:g} took all {len(run.times)} steps of a run in full: "
            f"{NO_PROMISE[most]}"
        )
        return
    report.fall_back(
        f"a run of {steps} steps had no cached step (reason: {most}); "
        f"{REMEDIES.get(most, 'rfc_compile.stats() tells every reason')}"
    )


def _note_new_prompts(reasons: Counter[str], steps: int, report: GraphReport) -> None:
    """Warn where some calls of a run had another prompt at most of its steps."""
    if 2 * reasons["conditioning"] > steps:
        report.fall_back(
            f"{reasons['conditioning']} calls of a run of {steps} steps were given a "
            "new prompt or other conditioning: such calls are full, whatever the "
            "target, and their errors do not cancel those of the others; pass the same "
            "tensors at every step"
        )


def note_not_continued(run: Trajectory, report: GraphReport) -> None:
    """Note that a run is freed, and what its decisions show."""
    note_end(run, report)
    report.note(
        f"the state of a run of {len(run.times)} steps is freed: newer runs have "
        "begun, and no call has continued it (it may have been complete)"
    )


def note_unlinked(runs: Sequence[Trajectory], report: GraphReport) -> None:
    """Warn where every call, or every step of a solver, begins a run of its own."""
    if report.options.get("interval") == 1:  # full steps are asked for
        return
    alone: list[Trajectory] = []
    for run in takewhile(_is_unlinked, reversed(runs)):
        if len(run.times) > 1 and alone and not _is_over_before(run, alone[-1]):
            break
        alone.append(run)
    times = {run.times[0] for run in alone}
    rows = any(len(time) > 1 for time in times)
    # images side by side begin at one timestep
    if (len(alone) if rows else len(times)) < UNLINKED_RUNS:
        return
    report.fall_back(
        f"{UNLINKED_RUNS} runs in a row ended with their first step, so all were "
        "full: their latents do not follow from what the model returned (fresh noise, "
        "edited latents, no output like the latent); say where a run begins: a "
        "pipeline does, or rfc_compile.trajectory(name, num_steps=...)"
    )


def _is_unlinked(run: Trajectory) -> bool:
    reasons = [made.reason for made in run.decisions]
    if len(run.times) == 1:
        return reasons[-1:] in (["warmup"], ["new_run"]) and not run.finished
    first = reasons[:1] in (["warmup"], ["new_run"])
    return first and is_short(run) and not run.finished


def _is_over_before(run: Trajectory, later: Trajectory) -> bool:
    """Whether its last call came before the first of another run."""
    return run.last_call <= later.last_call - len(later.decisions)


def note_cut(runs: Sequence[Trajectory], time: Time, report: GraphReport) -> None:
    """Warn where a run continues after the number of steps that it was given.

    ``time`` is that of the run's first step which was begun instead.
    """
    ended = [run for run in runs if run.finished and run.num_steps == len(run.times)]
    if not ended or len(ended[-1].times) < 2 or ended[-1].goes_back(time):
        return
    report.warn(
        f"num_steps={ended[-1].num_steps} is less than the calls of a run: it was cut "
        "there, and what followed began a run of its own, with full steps; give the "
        "calls of each guidance branch (a solver may make several in a step)"
    )


def is_short(run: Trajectory) -> bool:
    """Whether it ended within a few steps, all full."""
    return len(run.times) <= STAGES and all(made.full for made in run.decisions)


def note_short_runs(count: int, report: GraphReport) -> None:
    """Warn where calls of a block without a timestep input continue no run."""
    if count == UNLINKED_RUNS:
        report.fall_back(
            f"{count} runs in a row of a block ended within {STAGES} steps, all full: "
            "its input changes too much between calls to be recognised as the same "
            "image; say where a run begins: a pipeline does, or "
            "rfc_compile.trajectory(name, num_steps=...)"
        )
