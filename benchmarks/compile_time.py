"""How long compilation takes, cold and warm, next to that of the inner backend alone.

Every measurement is a process of its own with its own compile cache: cold with an empty
one, warm with the one that the cold process left. It counts the calls of the model
until every graph is compiled, less what the same calls take afterwards.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

import torch
from torch import nn

from benchmarks.random_models import CALLS, moving_inputs, tiny_flux
from benchmarks.report import RESULTS, Grid, console, publish, verdict
from rfc_compile.runtime.registry import dispatchers_of
from rfc_compile.runtime.run_boundaries import trajectory
from rfc_compile.tools.bench.workloads import DIT_B
from rfc_compile.tools.measure.trial import compile_model, elapsed

COLD_TARGET: Final = 1.5
"""Cold compilation, over that of the inner backend alone."""
PASSES_TARGET: Final = 0.05
"""Time in the passes, over that of the whole cold compilation."""

_INNER: Final = "inductor"
_BOTH_KINDS: Final = 3  # calls: full, full, cached


@dataclass(frozen=True)
class Compilation:
    """Seconds of one compilation, and where they went.

    Attributes:
        variant: ``inductor``, or the schedule.
        temperature: ``cold``: its compile cache was empty, or ``warm``.
        traces: the inner backend's own traces (AOT autograd).
        code: its lowering and code generation.
        kernels: waiting for compiled kernels.
    """

    variant: str
    model: str
    temperature: str
    total: float
    passes: float
    traces: float
    code: float
    kernels: float

    def row(self, alone: "Compilation") -> list[str]:
        """One line of the table."""
        parts = (self.passes, self.traces, self.code, self.kernels)
        rest = self.total - sum(parts)
        return [
            self.model,
            self.variant,
            self.temperature,
            f"{self.total:.1f}",
            f"{self.total / alone.total:.2f}",
            *(f"{seconds:.1f}" for seconds in (rest, *parts)),
            f"{self.passes / self.total:.1%}",
        ]


_MODELS: Final[dict[str, tuple[Callable[[], nn.Module], float]]] = {
    "DiT-B, 12 blocks": (DIT_B.make, 1000.0),
    "57 blocks, tiny": (partial(tiny_flux, 19, 38), 1.0),
}
"""With the first timestep. The second has as many blocks as FLUX.1."""
_SCHEDULES: Final[dict[str, dict[str, Any]]] = {
    "interval": {
        "schedule": "interval",
        "interval": 2,
        "warmup": 2,
        "max_cached_run": None,
    },
    "rcs": {"schedule": "rcs", "threshold": 1e9, "warmup": 2, "max_cached_run": 1},
}
"""Steps 0, 1, 3, 5 and so on are full, the others cached."""


@torch.no_grad()
def compile_once(variant: str, name: str, temperature: str) -> Compilation:
    """Compile a model in this process."""
    make, first_timestep = _MODELS[name]
    model, options = make(), _SCHEDULES.get(variant)
    compiled = compile_model(model, _INNER, options)
    first = 1 if options is None else _BOTH_KINDS
    times = []
    calls = moving_inputs(model, 2, first_timestep)
    with trajectory("run", num_steps=CALLS):
        for arguments in islice(calls, 2 * first):  # as many of each kind once more
            times.append(elapsed(lambda a=arguments: compiled(**a)))
            graphs = [g for d in dispatchers_of(model) for g in d.graphs.values()]
            if len(times) == first and not all(graph.calls for graph in graphs):
                raise RuntimeError(f"{variant}: a graph of {name} was not called")
    if (options is None) != (not graphs):
        raise RuntimeError(f"{name} runs uncached")
    metrics = torch._dynamo.utils.compilation_time_metrics
    spent = {key: sum(values) for key, values in metrics.items()}
    kernels = spent.get("PyCodeCache.load_by_key_path", 0.0)
    # a graph that comes whole from the cache has neither of these
    backend = spent.get("compile_fx.<locals>.fw_compiler_base", kernels)
    aot = spent.get("create_aot_dispatcher_function", backend)
    return Compilation(
        variant=variant,
        model=name,
        temperature=temperature,
        total=sum(times[:first]) - sum(times[first:]),
        passes=0.0 if options is None else spent["OutputGraph.call_user_compiler"],
        traces=aot - backend,
        code=backend - kernels,
        kernels=kernels,
    )


def _measure(variant: str, name: str, folder: str, temperature: str) -> Compilation:
    """The same in a process of its own, with this compile cache."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, variant, name, temperature],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return Compilation(**json.loads(done.stdout.splitlines()[-1]))


def _verdicts(alone: Compilation, ours: Compilation) -> list[str]:
    share, passes = ours.total / alone.total, ours.passes / ours.total
    return [
        verdict(
            share <= COLD_TARGET,
            f"{ours.model}, {ours.variant}, cold: {share:.2f} of inductor's time "
            f"(target {COLD_TARGET})",
        ),
        verdict(
            passes <= PASSES_TARGET,
            f"{ours.model}, {ours.variant}, passes: {passes:.1%} of it "
            f"(target {PASSES_TARGET:.0%})",
        ),
    ]


def _key(item: Compilation) -> tuple[str, str, str]:
    return item.model, item.variant, item.temperature


def _measured_before() -> Iterator[Compilation]:
    path = RESULTS / "compile_time.json"
    if path.exists():
        for item in json.loads(path.read_text())["compilations"]:
            item.pop("by_pass", None)  # of an earlier version
            yield Compilation(**item)


def run(args: Namespace) -> None:
    """Compile every model in every way.

    With ``args.only``, the models and variants with this in their name (``DiT-B``,
    ``57 blocks, tiny, rcs``); the others stay as the results of earlier runs have them.
    """
    found = {_key(item): item for item in _measured_before()} if args.only else {}
    names = list(_MODELS)[: 1 if args.quick else None]
    variants = (_INNER, *_SCHEDULES)
    for name, variant in itertools.product(names, variants):
        if args.only in f"{name}, {variant}":
            with tempfile.TemporaryDirectory() as folder:
                for temperature in ("cold", "warm"):
                    item = _measure(variant, name, folder, temperature)
                    found[_key(item)] = item
                    console.print(item, highlight=False)
    rows, verdicts = [], []
    for key in itertools.product(names, variants, ("cold", "warm")):
        name, variant, temperature = key
        alone = found.get((name, _INNER, temperature))
        if key not in found or alone is None:
            continue
        rows.append(found[key].row(alone))
        if variant != _INNER and temperature == "cold":
            verdicts += _verdicts(alone, found[key])
    header = ["model", "variant", "cache", "s", "ratio", "Dynamo", "passes", "traces"]
    header += ["code", "kernels", "passes"]
    grid = Grid("Seconds until every graph is compiled", header, rows)
    data = {"compilations": [asdict(item) for item in found.values()]}
    publish("compile_time", "Time to compile", data, [grid], verdicts)


if __name__ == "__main__":
    print(json.dumps(asdict(compile_once(*sys.argv[1:]))))
