"""The declared boundaries of runs: at its end the state of a run is freed.

    trajectory(name, num_steps=...)     by the user
    rows(rows)                          by a server, for each row of a batch
    end_run(number)                     by a pipeline (rfc_compile.integrations)

Other runs are freed after some calls that do not continue them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from rfc_compile.config.run_options import Row, RunOptions, positive
from rfc_compile.runtime import session_table
from rfc_compile.runtime.call_context import leave_run, named, named_rows
from rfc_compile.runtime.run_notes import note_end


@contextlib.contextmanager
def trajectory(
    name: str,
    *,
    num_steps: int | None = None,
    preset: str | None = None,
    tolerance: float | None = None,
    min_psnr: float | None = None,
    target_nfc: int | None = None,
    target_speedup: float | None = None,
    off: bool = False,
) -> Iterator[None]:
    """Name the trajectory that calls inside the block belong to.

    Needed only to interleave runs that have the same timesteps, or to give
    ``num_steps`` beforehand: the calls of each CFG branch. The block may be
    entered once per run or once per step. The same name is the same trajectory, in
    whatever thread or task it is used; without a name, every thread and asyncio task
    has trajectories of its own. After ``num_steps`` steps its state is freed.

    The other arguments are this run's in place of the model's options of that name,
    at most one of them; ``off=True`` computes every step. They hold for runs that
    begin inside the block, and nothing is compiled anew.

    Raises:
        ValueError: ``num_steps`` is not positive.
        OptionError: an option that is not allowed; where the model's own options
            forbid it, its call raises.
    """
    asked = RunOptions(
        preset=preset,
        tolerance=tolerance,
        min_psnr=min_psnr,
        target_nfc=target_nfc,
        target_speedup=target_speedup,
        off=off,
    )
    positive(num_steps)
    before = [id(run) for _, run in session_table.running() if run.name == name]
    with named(name, num_steps, asked):
        yield
    for session, run in session_table.running():
        if run.name == name and (run.complete or run.is_next):
            session.end(run)
        elif run.name == name and id(run) not in before:
            note_end(run, session.report)


@contextlib.contextmanager
def rows(rows: Sequence[Row]) -> Iterator[None]:
    """Say which request each row of a batch belongs to (``per_sample=True``).

    ``rows`` are in the order of the batch. Each request has its own number of steps and
    quality from its first call on, wherever its rows are in later ones; without names,
    rows are identified by their latents, and two requests for one image may be
    swapped. ``stats(model).samples`` has them by name.

    Raises:
        OptionError: by the model's call, where the batch has another number of rows,
            the model was compiled without ``per_sample=True``, or its own options
            forbid what a row asks for.
    """
    with named_rows(rows):
        yield


def end_run(number: int) -> None:
    """The run with this number (``call_context.begin_run``) makes no further call."""
    leave_run(number)
    for session, run in session_table.running():
        if run.run == number:
            session.end(run)
