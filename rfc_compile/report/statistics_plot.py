"""The figure of ``stats``: prediction errors and decisions by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rfc_compile.report.statistics import Statistics
from rfc_compile.schedules.decision import Decision

_REASONS: Final = {
    "within_limit": "0.88",
    "scheduled": "0.88",
    "warmup": "tab:gray",
    "threshold": "tab:orange",
    "even": "tab:orange",
    "noise_level": "tab:orange",
    "error_control": "tab:orange",
    "interval": "tab:orange",
    "mask": "tab:orange",
    "cap": "tab:blue",
    "final": "tab:purple",
}

_UNUSUAL: Final = "tab:red"
"""Colour of the other reasons: a new run, changed weights and the like."""


def statistics_figure(stats: Statistics, title: str = "") -> Figure:
    """The error of every step, and below it what was decided, a row for each branch.

    The upper panel has a line for each CFG branch: the step's input prediction error,
    dots where it was computed in full.
    """
    branches = sorted({decision.branch for decision in stats.decisions}) or [0]
    size = (8.0, 3.4 + 0.3 * len(branches))
    figure = Figure(figsize=size, layout="constrained")
    ratios = [5.0, 0.8 + 0.5 * len(branches)]
    errors, decided = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
    cached = len(stats.decisions) - stats.nfc
    text = f"{stats.steps} steps, {stats.nfc} full and {cached} cached calls"
    text += f", predicted by {stats.estimator}" if stats.estimator else ""
    figure.suptitle(f"{title}: {text}" if title else text, fontsize=11)
    for branch in branches:
        own = [d for d in stats.decisions if d.branch == branch]
        _draw_errors(errors, own, f"branch {branch}", f"C{branch}")
    if len(branches) > 1:
        errors.legend(fontsize=8)
    errors.set_ylabel("input prediction error")
    if any(decision.statistic for decision in stats.decisions):
        errors.set_yscale("log")
    errors.grid(axis="y", alpha=0.3)
    _draw_decisions(decided, stats.decisions, branches)
    figure.legend(
        *decided.get_legend_handles_labels(),
        loc="outside lower center",
        fontsize=8,
        ncols=4,
        frameon=False,
    )
    return figure


def _draw_errors(ax: Axes, own: Sequence[Decision], label: str, colour: str) -> None:
    known = [(d.step, d.statistic or 0.0) for d in own if d.statistic is not None]
    full = {d.step for d in own if d.full}
    dots = [(step, error) for step, error in known if step in full]
    ax.plot(*_columns(known), color=colour, linewidth=1.2, label=label)
    ax.plot(*_columns(dots), "o", color=colour)


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _draw_decisions(
    ax: Axes, decisions: Sequence[Decision], branches: Sequence[int]
) -> None:
    labelled: set[str] = set()
    for decision in decisions:
        kind = "full" if decision.full else "cached"
        label = f"{kind} ({decision.reason})"
        ax.bar(
            decision.step,
            0.8,
            width=0.9,
            bottom=branches.index(decision.branch) - 0.4,
            color=_REASONS.get(decision.reason, _UNUSUAL),
            hatch=None if decision.full else "//",
            edgecolor="white",
            linewidth=0,
            label="_" if label in labelled else label,
        )
        labelled.add(label)
    ax.set_yticks(range(len(branches)), [f"branch {b}" for b in branches], fontsize=8)
    ax.set_ylim(len(branches) - 0.5, -0.5)
    ax.set_xlabel("step")
    ax.margins(x=0.01)
