"""Where runs end, as far as somebody tells: their state is freed at once.

    trajectory(name, num_steps=...)     the user says so
    end_run(number)                     a pipeline says so (rfc_compile.integrations)

Without a word, a run that nobody continues is freed after a while.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rfc_compile.config.run_options import RunOptions
from rfc_compile.runtime import session_table
from rfc_compile.runtime.call_context import leave_run, named


@contextlib.contextmanager
def trajectory(
    name: str,
    *,
    num_steps: int | None = None,
    preset: str | None = None,
    tolerance: float | None = None,
    target_nfc: int | None = None,
    target_speedup: float | None = None,
    off: bool = False,
) -> Iterator[None]:
    """Name the trajectory that calls inside the block belong to.

    Needed only to interleave several runs that the timesteps cannot tell apart, or to
    give ``num_steps`` beforehand: the calls of each CFG branch. The block may be
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
    asked = RunOptions(preset, tolerance, target_nfc, target_speedup, off)
    if num_steps is not None and num_steps < 1:
        raise ValueError(f"num_steps={num_steps!r}: give a positive number of steps")
    with named(name, num_steps, asked):
        yield
    for owner, running in session_table.running():
        if owner == name and running.complete:
            running.finish()


def end_run(number: int) -> None:
    """The run with this number (``call_context.begin_run``) makes no further call."""
    leave_run(number)
    for _, running in session_table.running():
        if running.run == number:
            running.finish()
