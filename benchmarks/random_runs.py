"""Random runs of the bundled model, compiled in several ways, for the soak test."""

import hashlib
import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

import rfc_compile
from rfc_compile.tools.measure import glyph_dit
from rfc_compile.tools.measure.trial import compile_model, decide_by, forget_compiled

GRAPHS: Final[Mapping[str, dict[str, Any]]] = {
    "rcs, stack": {},
    "rcs, module": {"granularity": "module"},
    "interval, block": {
        "schedule": "interval",
        "granularity": "block",
        "estimator": "rfe",
    },
    "mask, stack, bfloat16": {
        "schedule": "mask",
        "full_steps": [0],
        "cache_dtype": "bfloat16",
    },
}
"""What the model is compiled with; the rest of the options varies by trajectory."""


CALLERS: Final = ("main", "thread", "named")
"""Who draws: the main thread, another one, or under a name."""


@dataclass(frozen=True)
class RandomRun:
    """One run, abandoned after ``stops`` steps if that is fewer than it has."""

    number: int
    graphs: str
    options: Mapping[str, Any]
    sampler: str
    steps: int
    stops: int
    guidance: float
    labels: tuple[int, ...]
    seed: int
    caller: str

    @property
    def abandoned(self) -> bool:
        """Whether it gives no image."""
        return self.stops < self.steps

    @property
    def all_full(self) -> bool:
        """Whether its options have every step computed in full."""
        return self.options.get("threshold") == 0 or self.options.get("interval") == 1


def random_run(number: int, rng: random.Random) -> RandomRun:
    """A run with random settings."""
    graphs = rng.choice(list(GRAPHS))
    steps = rng.randint(10, 30)
    full = rng.random() < 0.2
    if graphs.startswith("rcs"):
        varying: dict[str, Any] = {
            "threshold": 0 if full else rng.choice((0.1, 0.4, 1.2)),
            "warmup": rng.randint(1, 3),
            "max_cached_run": rng.choice((3, 8, None)),
        }
    elif graphs.startswith("interval"):
        varying = {"interval": 1 if full else rng.randint(2, 6)}
    else:
        varying = {"full_steps": sorted(rng.sample(range(steps), steps // 3))}
    return RandomRun(
        number=number,
        graphs=graphs,
        options={**GRAPHS[graphs], **varying},
        sampler=rng.choice(glyph_dit.SCHEDULERS),
        steps=steps,
        stops=rng.randrange(1, steps) if rng.random() < 0.2 else steps,
        guidance=rng.choice((1.0, 2.0)),
        labels=tuple(rng.randrange(10) for _ in range(rng.randint(1, 3))),
        seed=rng.randrange(1 << 30),
        caller=rng.choice(CALLERS),
    )


_other_thread: Final = ThreadPoolExecutor(max_workers=1)


class Abandoned(Exception):
    """Somebody has stopped the sampler."""


def draw(denoise: nn.Module, trajectory: RandomRun) -> Tensor:
    """The images of a run by whatever model; raises `Abandoned` if it is stopped."""

    def stop(done: int, total: int) -> None:
        if trajectory.abandoned and done >= trajectory.stops:
            raise Abandoned

    return glyph_dit.sample(
        denoise,
        labels=torch.tensor(trajectory.labels),
        seed=trajectory.seed,
        scheduler=trajectory.sampler,
        steps=trajectory.steps,
        guidance=trajectory.guidance,
        progress=stop,
    )


class Models:
    """The bundled model, compiled in every way of ``GRAPHS`` and called in all forms.

    ``blocks`` is how many of its first blocks are taken; ``plain`` is not compiled.
    """

    def __init__(self, inner: str, blocks: int) -> None:
        forget_compiled()
        self.plain = _first_blocks(blocks)
        self._models = {
            name: compile_model(_first_blocks(blocks), inner, options)
            for name, options in GRAPHS.items()
        }
        for run in forms_of_calls("main"):
            self.draw(run)

    def draw(self, trajectory: RandomRun) -> Tensor:
        """The images of a run by its own options; raises `Abandoned`."""
        model = self._models[trajectory.graphs]
        decide_by(model, trajectory.options)
        named = trajectory.caller == "named"
        with rfc_compile.trajectory("request") if named else nullcontext():
            return draw(model, trajectory)

    def forget(self, trajectory: RandomRun) -> None:
        """Drop the state of the model that draws this one."""
        rfc_compile.reset(self._models[trajectory.graphs])


def _first_blocks(blocks: int) -> nn.Module:
    model = glyph_dit.load_glyph_dit()
    model.transformer_blocks = model.transformer_blocks[:blocks]
    return model


def forms_of_calls(caller: str) -> Iterator[RandomRun]:
    """Short runs with every type of timestep and every size of batch that there are.

    Sizes are symbols from the second one on, but for that of 1.
    """
    sizes = ((2, 1.0), (3, 1.0), (1, 1.0), (2, 2.0), (3, 2.0))
    for graphs, options in GRAPHS.items():
        for sampler in ("ddim", "euler"):  # whole numbers, and others
            for count, guidance in sizes:
                labels = tuple(range(count))
                yield RandomRun(
                    number=0,
                    graphs=graphs,
                    options=options,
                    sampler=sampler,
                    steps=12,
                    stops=12,
                    guidance=guidance,
                    labels=labels,
                    seed=0,
                    caller=caller,
                )


def draw_as_told(models: Models, trajectory: RandomRun) -> Tensor:
    """The images of a run, drawn by whom it says; raises `Abandoned`."""
    if trajectory.caller == "thread":
        return _other_thread.submit(models.draw, trajectory).result()
    return models.draw(trajectory)


def digest(images: Tensor) -> str:
    """Equal for equal bits."""
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()
