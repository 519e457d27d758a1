"""Large models with random weights on an accelerator: ours and rivals, one by one.

    python -m benchmarks accelerator                        goes on where it stopped
    python -m benchmarks accelerator --only FLUX --minutes 60
    python -m benchmarks accelerator --device cpu --tiny    small models, to try it out

Every model has a process of its own, and every method is a piece that is saved as soon
as it is measured; what is missing is printed with the command that measures it. Methods
are those of `rfc-compile bench`, set to the same number of full steps. Nothing is
downloaded. Where a method does not count its full steps, a step is taken for one if it
takes more than half of the uncached model's. Compile time is that of the first run over
a later one: cold with an empty cache, warm once more with the compiler reset.
"""

import argparse
import gc
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.accelerator_models import MODELS, Model
from benchmarks.accelerator_records import Known, Piece, load, save_pieces, table
from benchmarks.report import RESULTS, console, show
from rfc_compile.tools.bench.methods import METHODS
from rfc_compile.tools.bench.methods.base import EAGER, INDUCTOR, Applied, Mode
from rfc_compile.tools.bench.workloads import Denoise, Step
from rfc_compile.tools.measure.trial import elapsed

MINUTES: Final = 8.0
"""After so many no other piece is begun."""

RUNS: Final = 3
"""Whole runs that are timed."""

ROOT: Final = Path(__file__).parent.parent

_STATIC: Final = {"schedule": "interval", "interval": 4, "warmup": 2}
_DYNAMIC: Final = {
    "schedule": "rcs",
    "threshold": 1e9,
    "warmup": 2,
    "max_cached_run": 3,
}
"""A probe at every step, and as many full steps."""

_GRAPHS: Final = {"inner_options": {"triton.cudagraphs": True}}

_OURS: Final[dict[str, tuple[str, Mapping[str, Any]]]] = {
    f"rfc, {granularity}, {kind}": (
        f"rfc, {granularity}",
        {"granularity": granularity, **schedule},
    )
    for granularity in ("stack", "block", "module")
    for kind, schedule in (("static", _STATIC), ("dynamic", _DYNAMIC))
}
PIECES: Final[dict[str, tuple[str, Mapping[str, Any]]]] = {
    "uncached": ("uncached", {}),
    **_OURS,
    **{
        f"{name}, CUDA graphs": (method, {**setting, **_GRAPHS})
        for name, (method, setting) in _OURS.items()
    },
    "FirstBlockCache": ("FirstBlockCache (diffusers)", {"threshold": 0.1}),
    "TaylorSeerCache": (
        "TaylorSeerCache (diffusers)",
        {"cache_interval": 4, "max_order": 1, "disable_cache_before_step": 2},
    ),
    "DBCache": (
        "DBCache (cache-dit)",
        {"Fn_compute_blocks": 1, "max_warmup_steps": 3, "every": 4},
    ),
}
"""By the name in the table: a method of the bench and its setting."""


class Device:
    """What is asked of a device: its memory, and how often the host waits for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._cuda = torch.device(name).type == "cuda"

    def peak_bytes(self) -> int:
        """The most memory so far."""
        if self._cuda:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def waits_in(self, run: Callable[[], object]) -> int | None:
        """How often the host waits in a run; only CUDA tells."""
        if not self._cuda:
            return None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(w.message) for w in caught)


def _timed(denoise: Denoise, seconds: list[float]) -> Denoise:
    """The same, each call timed until the device is done."""

    def call(step: Step, x: Tensor, /, **inputs: Tensor) -> Tensor:
        results: list[Tensor] = []
        call = partial(denoise, step, x, **inputs)
        seconds.append(elapsed(lambda: results.append(call())))
        return results[0]

    return call


def measure(
    model: Model, name: str, device: Device, mode: Mode, uncached: Piece | None
) -> Piece:
    """One piece; what a method raises becomes its error."""
    method, setting = PIECES[name]
    workload = model.workload(device.name)
    blank = Piece(model.name, name, device.name, model.steps)

    def draw(one: Applied, denoise: Denoise | None = None) -> float:
        """A run, in seconds."""
        one.begin()
        given = denoise or one.denoise
        return elapsed(lambda: workload.draw(given, 1, model.steps, 0))

    def compiled() -> tuple[Applied, float]:
        """The model anew, and the seconds of its first run."""
        torch.compiler.reset()
        gc.collect()
        one = METHODS[method].apply(workload.make(), workload, setting, mode)
        return one, draw(one)

    try:
        one, cold = compiled()
        del one  # makes room for the next
        one, warm = compiled()
        seconds: list[float] = []
        draw(one, _timed(one.denoise, seconds))
        run = [draw(one) for _ in range(RUNS)]
        waits = device.waits_in(partial(draw, one))
        one.close()
    except Exception as error:  # whatever a rival raises belongs in the table
        return replace(blank, error=f"{type(error).__name__}: {error}".split("\n")[0])
    whole = seconds if uncached is None or uncached.error else uncached.full
    limit = 0.5 * statistics.median(whole) if setting else 0.0
    count = sum(s > limit for s in seconds) if one.nfc is None else round(one.nfc())
    usual, slowest = statistics.median(run), sorted(seconds, reverse=True)
    return replace(
        blank,
        full=slowest[:count],
        cached=slowest[count:],
        run=run,
        waits=waits,
        peak_bytes=device.peak_bytes(),
        compile_cold=max(0.0, cold - usual),
        compile_warm=max(0.0, warm - usual),
    )


def _missing(known: Known, only: str) -> list[tuple[str, str]]:
    wanted = [(model, method) for model in MODELS for method in PIECES]
    return [one for one in wanted if one not in known and only in ": ".join(one)]


def run_model(
    name: str, path: Path, device: str, until: float, *, only: str = "", tiny: bool
) -> None:
    """Measure a model's missing pieces until a time (of `time.time`)."""
    model = MODELS[name].tiny() if tiny else MODELS[name]
    for own, piece in _missing(load(path), only):
        if own != name:
            continue
        if time.time() >= until:
            return
        console.print(f"measuring {own}: {piece}")
        known = load(path)
        mode: Mode = EAGER if tiny else INDUCTOR
        uncached = known.get((name, "uncached"))
        known[name, piece] = measure(model, piece, Device(device), mode, uncached)
        save_pieces(path, known)


def run(args: argparse.Namespace, folder: Path = RESULTS) -> None:
    """Measure what is missing, each model in a process; `quick` is the same as tiny."""
    tiny = args.tiny or args.quick
    device = args.device or _accelerator()
    path = folder / ("accelerator_tiny.json" if tiny else "accelerator.json")
    until = time.time() + 60 * (MINUTES if args.minutes is None else args.minutes)
    for name in dict.fromkeys(model for model, _ in _missing(load(path), args.only)):
        if time.time() < until:
            _run_in_process(name, path, device, until, only=args.only, tiny=tiny)
    known = load(path)
    if known:
        show(table(known))
    missing = _missing(known, args.only)
    if not missing:
        console.print("everything is measured")
        return
    again = f"--device {device}{' --tiny' if tiny else ''} --only '{missing[0][0]}'"
    console.print(
        f"{len(missing)} pieces are missing; next: python -m benchmarks accelerator "
        + again,
        soft_wrap=True,
    )


def _run_in_process(
    name: str, path: Path, device: str, until: float, *, only: str, tiny: bool
) -> None:
    command = [sys.executable, "-m", "benchmarks.accelerator", name, str(path)]
    command += [device, str(until), "--only", only, *(["--tiny"] if tiny else [])]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        subprocess.run(command, check=True, env=environment, cwd=ROOT)


def _accelerator() -> str:
    if not torch.accelerator.is_available():
        return "cpu"
    found = torch.accelerator.current_accelerator()
    return "cpu" if found is None else found.type


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("path", type=Path)
    parser.add_argument("device")
    parser.add_argument("until", type=float)
    parser.add_argument("--only", default="")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    run_model(
        args.name, args.path, args.device, args.until, only=args.only, tiny=args.tiny
    )
