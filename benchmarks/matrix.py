"""Trained models over samplers, guidance, steps and full steps, against everyone.

`cells.py` says which cells there are and how they were drawn, `rivals.py` how rivals
come to the same number of full steps. Every number is the mean over a cell's images of
their PSNR against two references:

    PSNR          the uncached run of the same sampler and steps
    of the ODE    its solution, by DPM++ 2M at 400 steps; it has none where the sampler
                  adds noise. It starts from the noise at the last timestep, as every
                  sampler does but DDIM, which starts some steps later.

`fewer steps` runs no cache but as many steps as may be full: of the same sampler, and
the better one of UniPC and DPM++ 2M.

Results are JSON lines in `results/matrix.jsonl`, one per cell, method and setting; what
is there is not measured again, except by `--again METHOD`, and the newest line counts.
Graphs run eagerly; who compiles them changes images by rounding only. Ours are kept
from one schedule to the next.
"""

import gc
import hashlib
import json
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.cached_runs import similarity
from benchmarks.cells import MEASURED, Cell, all_cells, int8, workload
from benchmarks.matrix_tables import write_tables
from benchmarks.report import console
from benchmarks.rivals import RIVALS, Rival
from benchmarks.scores import (
    FEWER,
    FEWER_BEST,
    OURS,
    PAPER,
    UNTOLD,
    Line,
    add_line,
    fingerprint,
    read_lines,
)
from rfc_compile.errors import one_line
from rfc_compile.report.statistics import stats
from rfc_compile.runtime.registry import reset
from rfc_compile.runtime.run_boundaries import trajectory
from rfc_compile.tools.bench.methods import METHODS
from rfc_compile.tools.bench.methods.base import describe
from rfc_compile.tools.bench.quality import run_eagerly
from rfc_compile.tools.bench.records import SLACK
from rfc_compile.tools.bench.workloads import plain
from rfc_compile.tools.measure.glyph_dit import default_device
from rfc_compile.tools.measure.trial import compile_model, decide_by

EVEN: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"corrector": "off"},
    {"granularity": "module"},
    {"order": 2},
    {"time": "step"},
)
"""Options of this package, each measured with the cell's full steps as `target_nfc`."""

ADAPTIVE: Final[tuple[dict[str, Any], ...]] = ({}, {"corrector": "off"})
"""Options under error control, brought to the full steps by `tolerance`."""

PAPERS_OPTIONS: Final[dict[str, Any]] = {
    "estimator": "rfe",
    "schedule": "rcs",
    "granularity": "module",
    "corrector": "off",
    "warmup": 2,
}
"""Brought to the full steps by `threshold`."""

OF_GRAPHS: Final = ("estimator", "granularity", "order", "corrector", "time")
"""Options that another schedule leaves as they are."""

MOST_COMPILED: Final = 24
"""Models of ours that are kept."""

SOLVERS: Final = ("unipc", "dpmpp_2m")

REFERENCES: Final = Path(__file__).parents[1] / ".cache" / "matrix"
ODE_STEPS: Final = 400
SEED: Final = 7000
IMAGES: Final = 4
QUICK_SECONDS: Final = 600


@dataclass(frozen=True)
class Found:
    """One run: its setting, its full steps, its images."""

    setting: str
    full: float
    images: Tensor


def uncached(cell: Cell, scheduler: str, steps: int, images: int) -> Tensor:
    """What the model draws without a cache, guided in one batch; kept on disk."""
    weights = fingerprint(cell.model)
    place = [cell.model, weights, cell.guidance, cell.is_int8]
    key = json.dumps([*place, scheduler, steps, images, SEED])
    path = REFERENCES / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
    if not path.exists():
        item = workload(replace(cell, separate=False), scheduler, steps)
        drawn = item.draw(plain(item.make()), images, steps, SEED)
        REFERENCES.mkdir(parents=True, exist_ok=True)
        save_file({"images": drawn.cpu().contiguous()}, path)
    return load_file(path)["images"]


def solution(cell: Cell, images: int) -> Tensor | None:
    """Of the ODE; None for a sampler that adds noise."""
    if cell.scheduler == "ddpm":
        return None
    return uncached(cell, "dpmpp_2m", ODE_STEPS, images)


def cached(cell: Cell, method: str, setting: Mapping[str, Any], images: int) -> Found:
    """One run of a method in a cell."""
    item = workload(cell, cell.scheduler, cell.steps)
    drawn, full = run_eagerly(METHODS[method], item, setting, images, cell.steps, SEED)
    return Found(describe(setting), full, drawn.cpu())


@lru_cache(maxsize=MOST_COMPILED)
def compiled(model: str, is_int8: bool, guided: bool, options: str) -> nn.Module:
    """Ours for one size of the batch; ``options`` as JSON."""
    made = int8(model) if is_int8 else MEASURED[model].load().to(default_device())
    return compile_model(made, "eager", json.loads(options), dynamic=False)


def ours(cell: Cell, setting: Mapping[str, Any], images: int) -> Found:
    """One run of this package in a cell, named and with its number of steps."""
    graph = {name: x for name, x in setting.items() if name in OF_GRAPHS}
    guided = cell.guidance > 1 and not cell.separate
    model = compiled(cell.model, cell.is_int8, guided, json.dumps(graph))
    item = workload(cell, cell.scheduler, cell.steps)
    with torch._dynamo.config.patch(recompile_limit=4 * MOST_COMPILED):
        item.draw(plain(model), images, 2, SEED)  # compiles what this sampler needs
        decide_by(model, setting)
        reset(model)
        with trajectory("run", num_steps=cell.calls):
            drawn = item.draw(plain(model), images, cell.steps, SEED)
    known = stats(model)
    assert known is not None
    full = sum(decision.full for decision in known.decisions)
    return Found(describe(setting), full / (1 + cell.separate), drawn.cpu())


def fewer_steps(cell: Cell, images: int, schedulers: Sequence[str]) -> Iterator[Found]:
    """Uncached runs that call the model as often as the cell has full steps."""
    for scheduler in schedulers:
        steps = (cell.full + 1) // 2 if scheduler == "heun" else cell.full
        drawn = uncached(cell, scheduler, steps, images)
        yield Found(f"{scheduler}, {steps} steps", cell.full, drawn)


def solvers(cell: Cell) -> tuple[str, ...]:
    """UniPC and DPM++ 2M, with the cell's shift if it has one."""
    _, _, shift = cell.scheduler.partition("_")
    shift = f"_{shift}" if shift.startswith(("shift", "dynamic")) else ""
    return tuple(solver + shift for solver in SOLVERS)


def rival(kind: Rival, cell: Cell, images: int) -> Iterator[Found]:
    """All settings that are tried."""
    found: list[Found] = []

    def run(setting: Mapping[str, Any]) -> float:
        if kind.method == OURS:
            found.append(ours(cell, setting, images))
        else:
            found.append(cached(cell, kind.method, setting, images))
        return found[-1].full

    for _ in kind.tries(run, cell.calls, cell.full):
        yield found[-1]


Runs = Callable[[Cell, int], Iterator[Found]]


def entries() -> Iterator[tuple[str, str, Runs]]:
    """(method, configuration, runs) of all that is measured in a cell."""
    for options in EVEN:
        yield OURS, describe(options), partial(rival, _told(options))
    for options in ADAPTIVE:
        controlled = {"schedule": "error_control", **options}
        kind = _steered(controlled, "tolerance", 1e-4, 30.0)
        yield OURS, describe(controlled), partial(rival, kind)
    paper = _steered(PAPERS_OPTIONS, "threshold", 0.02, 20.0)
    yield PAPER, "", partial(rival, paper)
    yield UNTOLD, "", lambda cell, images: iter([ours(cell, {}, images)])
    yield FEWER, "", lambda cell, images: fewer_steps(cell, images, [cell.scheduler])
    yield FEWER_BEST, "", lambda cell, images: fewer_steps(cell, images, solvers(cell))
    for kind in RIVALS:
        yield kind.method, "", partial(rival, kind)


def _told(options: Mapping[str, Any]) -> Rival:
    """This package, given the full steps as a target."""
    return Rival(OURS, lambda calls, full: [{**options, "target_nfc": full}])


def _steered(options: Mapping[str, Any], key: str, least: float, most: float) -> Rival:
    """This package, brought to the full steps by a threshold."""
    steered = {"key": key, "least": least, "most": most}
    return Rival(OURS, steered=lambda calls, full: options, **steered)


def measure(cell: Cell, method: str, runs: Runs, images: int) -> dict[str, Any]:
    """Numbers of the best run that keeps to the full steps, or an error.

    If no run of this package does, they are those of the one with the fewest.
    """
    wanted = uncached(cell, cell.scheduler, cell.steps, images)
    try:
        found = list(runs(cell, images))
    except Exception as error:  # whatever a rival raises belongs in the table
        return {"error": one_line(error)}
    kept = [run for run in found if run.full <= cell.full + SLACK]
    if not kept and method in (OURS, PAPER, UNTOLD):
        kept = [min(found, key=lambda run: run.full)]
    if not kept:
        return {"error": "no setting has so few full steps"}
    best = max(kept, key=lambda run: similarity(run.images, wanted).mean().item())
    each = similarity(best.images, wanted)
    return {
        "setting": best.setting,
        "full": round(best.full, 2),
        "psnr": round(each.mean().item(), 3),
        "psnr_min": round(each.min().item(), 3),
        "psnr_ode": _against_ode(cell, best.images, images),
    }


def _against_ode(cell: Cell, drawn: Tensor, images: int) -> float | None:
    truth = solution(cell, images)
    return None if truth is None else round(similarity(drawn, truth).mean().item(), 3)


def todo(
    cells: Sequence[Cell], only: str, again: str, images: int
) -> Iterator[tuple[Cell, str, str, Runs]]:
    """What is not in the file yet, cell by cell; with `again`, what that names."""
    known = {line.key for line in read_lines(now=True) if line.images >= images}
    for cell in cells:
        for method, config, runs in entries():
            if cell.scheduler == "ddpm" and method in (FEWER, FEWER_BEST):
                continue
            key = cell, method, config
            wanted = again in method if again else key not in known
            if only in str(cell) and wanted:
                yield cell, method, config, runs


def run(args: Namespace) -> None:
    """Measure what is missing, then write `results/matrix.md`."""
    count = args.images or (1 if args.quick else IMAGES)
    limit = QUICK_SECONDS if args.quick else 60 * (args.minutes or float("inf"))
    start = time.monotonic()
    for cell, method, config, runs in todo(all_cells(), args.only, args.again, count):
        begun = time.monotonic()
        if begun - start > limit:
            console.print("out of time; run it again to go on")
            break
        found = measure(cell, method, runs, count)
        line = Line(
            cell=cell,
            method=method,
            config=config,
            images=count,
            weights=fingerprint(cell.model),
            seconds=round(time.monotonic() - begun, 1),
            **found,
        )
        add_line(line)
        console.print(_short(line), highlight=False, soft_wrap=True)
        gc.collect()
    write_tables(read_lines())


def _short(line: Line) -> str:
    numbers = line.error or f"{line.psnr:.1f} dB with {line.full:g} full"
    return f"{line.cell}: {line.method} {line.config}: {numbers}, {line.seconds:g} s"
