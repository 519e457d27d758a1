"""Times runs of one setting, in turn with runs of the uncached model under inductor.

Both are in one process and compiled anew for every setting, so that no method meets
the guards, the caches or the recompile limit of another. A run of a workload whose
images mean nothing is shortened for the uncached model and scaled: its calls cost the
same at every step.
"""

import gc
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from rfc_compile.dynamo_frames import CompileCounts
from rfc_compile.errors import one_line
from rfc_compile.tools.bench.methods.base import (
    INDUCTOR,
    Applied,
    Method,
    Mode,
    describe,
)
from rfc_compile.tools.bench.quality import run_eagerly
from rfc_compile.tools.bench.records import Timing
from rfc_compile.tools.bench.workloads import (
    REPORT_SEED,
    Denoise,
    Step,
    Workload,
    plain,
)
from rfc_compile.tools.measure.trial import compile_model, elapsed

_SHORTER: Final = 5


def measure_time(
    method: Method,
    workload: Workload,
    setting: Mapping[str, Any],
    mode: Mode,
    *,
    images: int,
    steps: int,
    repeats: int,
    nfc: float | None = None,
) -> Timing:
    """One setting in one mode; a method that fails gives its error.

    Guidance doubles the ``images`` of a batch. ``nfc`` is that of the setting, None to
    count it in an eager run.
    """
    line = describe(setting)
    blank = Timing(workload.name, method.name, line, mode, steps=steps)
    try:
        if nfc is None:
            _, nfc = run_eagerly(method, workload, setting, images, steps, REPORT_SEED)
        torch.compiler.reset()
        applied = method.apply(workload.make(), workload, setting, mode)
        try:
            uncached = _Uncached(workload, images, steps)
            timing = _timed(replace(blank, nfc=nfc), uncached, applied, repeats)
        finally:
            applied.close()
    except Exception as error:  # whatever a rival raises belongs in the table
        return replace(blank, error=one_line(error))
    finally:
        torch.compiler.reset()
        gc.collect()
    return timing


class _Uncached:
    """The model under inductor alone."""

    def __init__(self, workload: Workload, images: int, steps: int) -> None:
        self.workload, self.images, self.steps = workload, images, steps
        self.shorter = 1 if workload.trained or steps < 2 * _SHORTER else _SHORTER
        self.denoise = plain(compile_model(workload.make(), INDUCTOR))
        workload.draw(self.denoise, images, 2, REPORT_SEED)

    def seconds(self) -> float:
        """Of a whole run."""
        steps = self.steps // self.shorter
        draw = self.workload.draw
        once = elapsed(lambda: draw(self.denoise, self.images, steps, REPORT_SEED))
        return once * self.steps / steps


def _timed(
    blank: Timing, uncached: _Uncached, applied: Applied, repeats: int
) -> Timing:
    counts = CompileCounts()
    draw, images = uncached.workload.draw, uncached.images

    def run() -> float:
        applied.begin()
        return elapsed(lambda: draw(applied.denoise, images, blank.steps, REPORT_SEED))

    first = run()
    kept = _kept_bytes(uncached.workload, applied, images, blank.steps)
    pairs = [(uncached.seconds(), run()) for _ in range(repeats)]
    between, seconds = zip(*pairs, strict=True)
    timing = replace(blank, seconds=seconds, uncached_seconds=between)
    if applied.nfc is not None:
        timing = replace(timing, nfc=applied.nfc())
    breaks, recompiles = counts.since()
    compiling = first - timing.median if blank.mode == INDUCTOR else 0.0
    return replace(
        timing,
        compile_seconds=max(0.0, compiling),
        graph_breaks=breaks,
        recompiles=recompiles,
        extra_bytes=kept,
    )


def _kept_bytes(workload: Workload, applied: Applied, images: int, steps: int) -> int:
    """Most bytes of tensors alive after some step, over those before the run.

    This run is the second, untimed like the first: both may compile.
    """
    applied.begin()
    before = _living_bytes()
    watched = {steps // 2, steps - 2}
    found = [0]

    def denoise(step: Step, x: Tensor, /, **inputs: Tensor) -> Tensor:
        prediction = applied.denoise(step, x, **inputs)
        if step.index in watched:
            found.append(_living_bytes() - before)
        return prediction

    watching: Denoise = denoise
    workload.draw(watching, images, steps, REPORT_SEED)
    return max(found)


def _living_bytes() -> int:
    storages = {}
    gc.collect()
    for item in gc.get_objects():
        if type(item) in (Tensor, nn.Parameter) and not item.is_meta:
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
