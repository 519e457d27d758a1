"""`python -m benchmarks.soak`: many random runs in one process; does anything grow?

The bundled model is compiled in a few ways and draws one trajectory after another, with
random samplers, numbers of steps and images, guidance, thresholds, intervals and lists
of full steps; from the main thread, from others, and under names; some are abandoned in
the middle. After a warm-up, memory, compiled graphs and the objects that Dynamo and the
runtime keep must stay as they are.

An image is wrong if a model that is compiled afresh and has kept nothing draws another
one with the same settings, bit for bit; or if every step was full and the model without
caching draws another one.

Writes the section *Soak* of docs/RELIABILITY.md. Exit code 1 if a limit is missed.
"""

import argparse
import ctypes
import gc
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

from benchmarks.random_runs import (
    CALLERS,
    Abandoned,
    Models,
    RandomRun,
    digest,
    draw,
    draw_as_told,
    forms_of_calls,
    random_run,
)
from benchmarks.report import Grid, console, show
from rfc_compile.dynamo_frames import CompileCounts
from rfc_compile.io.files import replace_section
from rfc_compile.io.json_files import MOST_BYTES
from rfc_compile.tools.measure.environment import environment

DOCUMENT: Final = Path(__file__).resolve().parent.parent / "docs" / "RELIABILITY.md"
START: Final = "<!-- soak: written by make soak -->"
END: Final = "<!-- end of soak -->"

WARM_UP: Final = 0.2
"""Share of the trajectories before anything is measured."""

SAMPLED: Final = 5
"""One trajectory in so many is drawn again."""

MOST_GROWTH: Final = 0.01
"""Of the memory, from the end of the warm-up to the end."""

ROUNDING: Final = 1e-3
"""Largest difference of a pixel that another compiler than eager may make."""

MANY_GRAPHS: Final = 64
"""Of one function: Dynamo counts those of all models of a class together."""

COMPILED: Final = ("GuardManagerWrapper", "GraphModule", "GraphReport", "LazyGraph")
"""Classes of what Dynamo and the backend compile; of their objects, none may come."""

STATE: Final = ("Scope", "Trajectory", "Branch", "KeptState")
"""Classes of what the runtime keeps of runs, which come and go."""

KEPT: Final = (*COMPILED, *STATE)

MOST_STATE: Final = 0.2
"""How many more of them there may be: a run that was abandoned keeps its state."""

PARTS: Final = 5
"""How often memory is read after the warm-up."""


@dataclass(frozen=True)
class Held:
    """What the process holds at one moment: memory in bytes, and objects by class."""

    resident: int
    objects: Mapping[str, int]


def held() -> Held:
    """What the process holds now, without garbage and freed pages. Linux only."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    names = Counter(type(item).__name__ for item in gc.get_objects())
    return Held(
        pages * os.sysconf("SC_PAGE_SIZE"), {name: names[name] for name in KEPT}
    )


@dataclass
class Soak:
    """What became of the trajectories.

    Attributes:
        drawn: how many, abandoned ones among them.
        kept: digests of the images of those that are drawn again.
        recompiled: compilations after the warm-up.
        resident: memory at the end of each part of the time, in bytes.
        before, after: what was held at the end of the warm-up and at the end.
    """

    drawn: int = 0
    abandoned: int = 0
    kept: list[tuple[RandomRun, str]] = field(default_factory=list)
    seconds: float = 0.0
    recompiled: int = 0
    resident: list[int] = field(default_factory=list)
    before: Held | None = None
    after: Held | None = None


def soak(models: Models, count: int, minutes: float, seed: int) -> Soak:
    """At least so many trajectories for at least so many minutes."""
    rng, result = random.Random(seed), Soak()
    for caller in CALLERS:  # each has state of its own for every form of a call
        for run in forms_of_calls(caller):
            draw_as_told(models, run)
    draw_for(models, rng, result, WARM_UP * count, WARM_UP * minutes)
    result.before, counts = held(), CompileCounts()
    for part in range(1, PARTS + 1):
        share = WARM_UP + (1 - WARM_UP) * part / PARTS
        draw_for(models, rng, result, share * count, share * minutes)
        result.after = held()
        result.resident.append(result.after.resident)
    _, result.recompiled = counts.since()
    return result


def draw_for(
    models: Models, rng: random.Random, result: Soak, count: float, minutes: float
) -> None:
    """Draw until there are so many trajectories, and so much time has gone by."""
    while result.drawn < count or result.seconds < 60 * minutes:
        start = time.monotonic()
        trajectory = random_run(result.drawn, rng)
        result.drawn += 1
        try:
            images = draw_as_told(models, trajectory)
        except Abandoned:
            result.abandoned += 1
        else:
            if trajectory.number % SAMPLED == 0:
                result.kept.append((trajectory, digest(images)))
        result.seconds += time.monotonic() - start


def wrong_images(
    kept: Sequence[tuple[RandomRun, str]], fresh: Models, allowed: float
) -> list[str]:
    """What is wrong with the images that were kept, a line each."""
    wrong = []
    for trajectory, known in kept:
        fresh.forget(trajectory)
        images = fresh.draw(trajectory)
        if digest(images) != known:
            wrong.append(f"{trajectory}: a fresh model draws another image")
        if trajectory.all_full:
            difference = float((images - draw(fresh.plain, trajectory)).abs().max())
            if difference > allowed:
                wrong.append(f"{trajectory}: differs by {difference} without caching")
    return wrong


def most_objects(name: str) -> float:
    """How many objects of a class there may be, as a multiple of those before."""
    return 1.0 if name in COMPILED else 1 + MOST_STATE


def table(result: Soak, wrong: Sequence[str]) -> tuple[Grid, bool]:
    """The numbers with their limits, and whether all hold."""
    before, after = result.before, result.after
    assert before is not None
    assert after is not None
    growth = after.resident / before.resident - 1
    full = sum(trajectory.all_full for trajectory, _ in result.kept)
    rows = [
        ("trajectories", f"{result.drawn}", "", True),
        ("of these abandoned", f"{result.abandoned}", "", True),
        ("minutes", f"{result.seconds / 60:.1f}", "", True),
        ("resident MiB after the warm-up", f"{before.resident / 2**20:.1f}", "", True),
        (
            "resident MiB at the end",
            f"{after.resident / 2**20:.1f} ({growth:+.2%})",
            f"at most {MOST_GROWTH:+.0%}",
            growth <= MOST_GROWTH,
        ),
        ("meanwhile", ", ".join(f"{r / 2**20:.0f}" for r in result.resident), "", True),
        ("recompilations", f"{result.recompiled}", "0", result.recompiled == 0),
        *(
            (
                f"`{name}` objects",
                f"{before.objects[name]}, then {after.objects[name]}",
                "no more" if name in COMPILED else f"at most {MOST_STATE:+.0%}",
                after.objects[name] <= before.objects[name] * most_objects(name),
            )
            for name in KEPT
        ),
        ("images drawn again", f"{len(result.kept)}, {full} of them full", "", True),
        ("wrong images", f"{len(wrong)}", "0", not wrong),
    ]
    shown = [
        [n, value, limit, "" if good else "missed"] for n, value, limit, good in rows
    ]
    grid = Grid("Soak", ["", "measured", "limit", ""], shown)
    return grid, all(good for *_, good in rows)


def write(grid: Grid, path: Path) -> None:
    """Replace the section of the document."""
    about = str(environment("python -m benchmarks.soak"))
    replace_section(path, START, END, f"{grid.markdown()}\n{about}", MOST_BYTES)


def main() -> int:
    """Run, print and write; the exit code."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20, help="at least")
    parser.add_argument("--trajectories", type=int, default=200, help="at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inner", default="eager", help="the inner backend")
    parser.add_argument(
        "--blocks", type=int, default=12, help="of the model, the first"
    )
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    args = parser.parse_args()
    allowed = 0.0 if args.inner == "eager" else ROUNDING
    with torch._dynamo.config.patch(recompile_limit=MANY_GRAPHS):
        models = Models(args.inner, args.blocks)
        result = soak(models, args.trajectories, args.minutes, args.seed)
        fresh = Models(args.inner, args.blocks)
        wrong = wrong_images(result.kept, fresh, allowed)
    grid, good = table(result, wrong)
    show(grid)
    for line in wrong:
        console.print(line, soft_wrap=True)
    write(grid, args.document)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
