"""What a tolerance makes of an image: the constants of ``min_psnr``, judged left out.

Every trained model is sampled with its samplers, steps and guidance at several
tolerances and numbers of full steps, one image a run. Two lines are fitted by least
squares to all runs, the mean over models weighing the same:

    psnr = offset - slope log10(tolerance)
    psnr = offset - slope log10(debt)           the largest debt that a run has made

Each model is judged by the line of the others. The margin below the line is the least
with which nine of ten runs of every model left out keep what it promises. These are the
constants of `schedules/promise.py`.

Results are JSON lines in `results/promise.jsonl`; what is there is not measured again.
"""

import itertools
import json
import math
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch

import rfc_compile
from benchmarks.cached_runs import compiled, similarity
from benchmarks.report import RESULTS, Grid, console
from rfc_compile.tools.measure.bundled_models import MODELS
from rfc_compile.tools.measure.trained_model import TrainedModel

SAMPLERS: Final = {
    "epsilon or v": ("ddim", "dpmpp_2m", "euler", "heun", "unipc"),
    "flow": (
        "euler",
        "euler_shift3",
        "euler_shift7",
        "euler_dynamic",
        "unipc_shift3",
        "dpmpp_2m_shift3",
    ),
}
RUNS: Final = ((50, 2.0), (28, 1.0), (20, 4.0), (50, 1.0), (28, 2.0), (28, 4.0))
"""Steps and guidance."""
IMAGES: Final = (3, 11)
"""Places among a model's examples."""
TOLERANCES: Final = (0.004, 0.01, 0.02, 0.04, 0.08)
SHARES: Final = (0.2, 0.3, 0.45)
"""Of full steps, spread evenly."""
QUICK_MINUTES: Final = 10
KEPT: Final = 0.9
LARGEST: Final = 110.0
"""PSNR of runs whose steps were all full, about; they say nothing."""
FILE: Final = RESULTS / "promise.jsonl"


@dataclass(frozen=True)
class Run:
    """One image, drawn with a cache: PSNR in dB, and its largest debt if one is known.

    One of ``tolerance`` and ``target_nfc`` is given.
    """

    model: str
    sampler: str
    steps: int
    guidance: float
    image: int
    tolerance: float | None
    target_nfc: int | None
    psnr: float = 0.0
    full: int = 0
    debt: float | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What is measured."""
        values = asdict(self)
        return tuple(values[name] for name in list(values)[:7])


def planned(model: TrainedModel) -> Iterator[Run]:
    """All runs of a model, those of one image behind one another."""
    kind = "flow" if "euler_dynamic" in model.schedulers else "epsilon or v"
    for (steps, guidance), sampler, image in itertools.product(
        RUNS, SAMPLERS[kind], IMAGES
    ):
        place = model.name, sampler, steps, guidance, image
        calls = model.count_calls(sampler, steps)
        for tolerance in TOLERANCES:
            yield Run(*place, tolerance, None)
        for share in SHARES:
            yield Run(*place, None, round(share * calls))


def read_runs() -> list[Run]:
    """What was measured before."""
    if not FILE.exists():
        return []
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return [Run(**json.loads(line)) for line in lines]


def measure(minutes: float | None = None) -> None:
    """Draw what is missing; stop after so many minutes, to go on another time."""
    known = {run.key for run in read_runs()}
    end = time.monotonic() + 60 * (minutes or math.inf)
    for model in MODELS.values():
        todo = [run for run in planned(model) if run.key not in known]
        torch.compiler.reset()
        plain = model.load()
        cached = compiled(model)
        for place, runs in itertools.groupby(todo, key=lambda run: run.key[:5]):
            wanted = _drawn(model, plain, place)
            for run in runs:
                if time.monotonic() > end:
                    console.print("out of time; run it again to go on")
                    return
                _record(model, cached, run, wanted)


def _record(model: TrainedModel, cached: Any, run: Run, wanted: torch.Tensor) -> None:
    """Draw it, and add its line."""
    with rfc_compile.trajectory(
        "run",
        num_steps=model.count_calls(run.sampler, run.steps),
        tolerance=run.tolerance,
        target_nfc=run.target_nfc,
    ):
        image = _drawn(model, cached, run.key[:5])
    stats = rfc_compile.stats(cached)
    debts = [made.debt for made in stats.decisions if made.debt is not None]
    found = {
        "psnr": round(similarity(image, wanted).item(), 3),
        "full": stats.nfc,
        "debt": max(debts, default=None),
    }
    with FILE.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**asdict(run), **found}) + "\n")


def _drawn(model: TrainedModel, network: Any, place: Sequence[Any]) -> torch.Tensor:
    _, sampler, steps, guidance, image = place
    return model.sample(
        network,
        model.conditions(image + 1)[image:],
        seed=500 + image,
        scheduler=sampler,
        steps=steps,
        guidance=guidance,
    )


@dataclass(frozen=True)
class FittedLine:
    """psnr = offset - slope log10(x) for the `kind` of x, `tolerance` or `debt`."""

    kind: str
    offset: float
    slope: float

    def above(self, runs: Sequence[Run]) -> np.ndarray:
        """By how many dB runs are better than the line."""
        psnr = np.array([run.psnr for run in runs])
        better: np.ndarray = psnr - self.offset + self.slope * _decades(runs, self.kind)
        return better


def _decades(runs: Sequence[Run], kind: str) -> np.ndarray:
    return np.log10([getattr(run, kind) for run in runs])


def fitted(runs: Sequence[Run], kind: str) -> FittedLine:
    """The line through runs, every model weighing the same."""
    names = [run.model for run in runs]
    weight = np.sqrt([1 / names.count(name) for name in names])
    columns = np.stack([np.ones(len(runs)), -_decades(runs, kind)], 1)
    psnr = np.array([run.psnr for run in runs])
    (offset, slope), *_ = np.linalg.lstsq(
        columns * weight[:, None], psnr * weight, rcond=None
    )
    return FittedLine(kind, float(offset), float(slope))


def known_runs(kind: str) -> list[Run]:
    """Those that cached some steps, and that have the `tolerance` or `debt`."""
    runs = [run for run in read_runs() if run.psnr < LARGEST]
    return [run for run in runs if getattr(run, kind)]


def left_out(
    runs: Sequence[Run], kind: str
) -> dict[str, tuple[FittedLine, np.ndarray]]:
    """For every model the line of the others, and how its runs are above it."""
    found = {}
    for name in dict.fromkeys(run.model for run in runs):
        line = fitted([run for run in runs if run.model != name], kind)
        found[name] = line, line.above([run for run in runs if run.model == name])
    return found


def margin(runs: Sequence[Run], kind: str) -> float:
    """What nine of ten runs of each model stay above of the others' line, less."""
    judged = left_out(runs, kind).values()
    return max(-float(np.quantile(above, 1 - KEPT)) for _, above in judged)


def table(kind: str) -> list[str]:
    """Markdown: the line of all models, then each model judged by the others' line."""
    runs = known_runs(kind)
    line, behind = fitted(runs, kind), margin(runs, kind)
    rows = [
        [
            *(name, str(len(above)), f"{(above >= -behind).mean():.0%}"),
            f"{(above + behind).mean():.1f} dB",
            f"{above.mean():+.1f} +- {above.std():.1f} dB",
        ]
        for name, (_, above) in left_out(runs, kind).items()
    ]
    header = ["left out", "runs", "kept what was promised"]
    header += ["more than promised, mean", "by the line of the others"]
    about = f"psnr = {line.offset:.1f} - {line.slope:.1f} log10({kind})"
    grid = Grid("", header, rows)
    return [f"{about}; margin {behind:.1f} dB", "", *grid.body().splitlines()]


def run(args: Namespace) -> None:
    """Measure what is missing, then write `results/promise.md`."""
    measure(QUICK_MINUTES if args.quick else args.minutes)
    text = "\n".join([*table("tolerance"), "", *table("debt"), ""])
    (RESULTS / "promise.md").write_text(text, encoding="utf-8")
    console.print(text, highlight=False, soft_wrap=True)
