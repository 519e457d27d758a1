"""Run a study and write what it found."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rfc_compile.io.files import check_writable, make_folder, replace_file
from rfc_compile.io.json_files import JSON
from rfc_compile.tools.measure.reference import Reference, draw_reference
from rfc_compile.tools.measure.target import Target
from rfc_compile.tools.tuning.finals import Finals
from rfc_compile.tools.tuning.goal import Goal
from rfc_compile.tools.tuning.journal import Journal
from rfc_compile.tools.tuning.progress import Clock, SearchProgress
from rfc_compile.tools.tuning.search import Search
from rfc_compile.tools.tuning.space import graph_setting
from rfc_compile.tools.tuning.study import (
    OPTIONS_FILE,
    PLOT_FILE,
    REPORT_FILE,
    STUDY_FILE,
    Plan,
    Study,
)
from rfc_compile.tools.tuning.trials import Trials


def run_study(target: Target, goal: Goal, plan: Plan, *, show: bool) -> Study:
    """Draw the references, search, write the files; ``show`` tells what is done."""
    graph = graph_setting(plan.fixed)
    study_file = None if plan.output is None else plan.output / STUDY_FILE
    if plan.output is not None:
        make_folder(plan.output, "--output")
        for name in (OPTIONS_FILE, PLOT_FILE, REPORT_FILE, STUDY_FILE):
            check_writable(plan.output / name, "--output")
    clock = Clock(None if plan.time_limit is None else 60 * plan.time_limit)
    progress = SearchProgress(show)
    progress.begin("reference")
    searched = _draw(target, plan.search_seeds(), progress)
    held_out = _draw(target, plan.held_out_seeds(), progress)
    journal = Journal.open(study_file, _study(target, plan), resume=plan.resume)
    search = Search(
        goal,
        Trials(graph, searched, journal, clock, progress.note),
        Finals(held_out, journal, clock, plan.repeats, plan.inner),
        progress,
    )
    search.run()
    study = Study(goal, plan, search, held_out, clock.seconds)
    if plan.output is not None:
        _write(study, plan.output)
    return study


def _draw(target: Target, seeds: range, progress: SearchProgress) -> Reference:
    progress.note(f"seeds {seeds.start} to {seeds.stop - 1} without caching")
    return draw_reference(target, seeds)


def _study(target: Target, plan: Plan) -> dict[str, JSON]:
    """What the numbers of a study depend on."""
    facts: dict[str, JSON] = {"target": target.name, **asdict(target.fingerprint())}
    seeds: dict[str, JSON] = {"seed": plan.seed, "seeds": plan.seeds}
    return facts | seeds | {"inner": plan.inner}


def _write(study: Study, folder: Path) -> None:
    """The plot and the report; the options, if they meet the limits."""
    from rfc_compile.tools.tuning.report import pareto_plot, render_report

    plot = pareto_plot(study)
    replace_file(folder / PLOT_FILE, plot)
    replace_file(folder / REPORT_FILE, render_report(study, plot))
    if not study.missed:
        study.tuned.save(folder / OPTIONS_FILE)
