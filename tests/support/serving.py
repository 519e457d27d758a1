"""A small server: requests join and leave a batch that one compiled model denoises."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from models import timesteps, tokens
from torch import Tensor

import rfc_compile
from rfc_compile.schedules.decision import Decision
from rfc_compile.tools.measure.glyph_dit import initial_noise, make_scheduler


class Request:
    """One image under way; its row of a batch has the latent, timestep and label."""

    x: Tensor
    steps: int
    done: int = 0

    @property
    def finished(self) -> bool:
        return self.done == self.steps

    def row(self) -> dict[str, Tensor]:
        """The model's inputs for the next step, of a batch of one."""
        raise NotImplementedError

    def take(self, prediction: Tensor) -> None:
        """Go on by a step; ``prediction`` is the model's, of a batch of one."""
        raise NotImplementedError


class GlyphRequest(Request):
    """A digit of the bundled model, by a sampler of its own."""

    def __init__(self, label: int, seed: int, steps: int, name: str = "ddim") -> None:
        self.sampler, self.label = make_scheduler(name, steps), label
        self.x = initial_noise(1, seed) * self.sampler.init_noise_sigma
        self.steps = steps

    def row(self) -> dict[str, Tensor]:
        timestep = self.sampler.timesteps[self.done]
        return {
            "hidden_states": self.sampler.scale_model_input(self.x, timestep),
            "timestep": timestep[None],
            "class_labels": torch.tensor([self.label]),
        }

    def take(self, prediction: Tensor) -> None:
        timestep = self.sampler.timesteps[self.done]
        self.x = self.sampler.step(prediction, timestep, self.x).prev_sample
        self.done += 1


class TinyRequest(Request):
    """A run of the tiny models along a straight line: the time falls from 1 to 0."""

    def __init__(self, seed: int, steps: int) -> None:
        self.x, self.steps, self.seed = tokens(seed, batch=1), steps, seed

    def row(self) -> dict[str, Tensor]:
        return {"x": self.x, "t": timesteps(1 - self.done / self.steps, batch=1)}

    def take(self, prediction: Tensor) -> None:
        self.x = self.x - prediction / self.steps
        self.done += 1


def step(model: Callable[..., Any], batch: Sequence[Request]) -> None:
    """One call of the model for these requests, in this order."""
    rows = [request.row() for request in batch]
    inputs = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    with torch.no_grad():
        result = model(**inputs)
    predictions = result if isinstance(result, Tensor) else result.sample
    for request, prediction in zip(batch, predictions.split(1), strict=True):
        request.take(prediction)


def serve(
    model: Callable[..., Any],
    arrivals: Sequence[tuple[int, Request]],
    batches: Callable[[list[Request]], Sequence[Sequence[Request]]] | None = None,
) -> list[Request]:
    """Run requests, each from a call on; returns them.

    ``batches`` splits and orders what is under way; by default it is one batch whose
    rows are in turn in this order and in the opposite one.
    """
    requests = [request for _, request in arrivals]
    for call in itertools.count():
        if all(request.finished for request in requests):
            break
        under_way = [x for at, x in arrivals if at <= call and not x.finished]
        parts = [under_way[:: -1 if call % 2 else 1]]
        for batch in parts if batches is None else batches(under_way):
            if batch:
                step(model, batch)
    return requests


Kinds = list[tuple[int, float, bool, str]]


def kinds(decisions: Iterable[Decision]) -> Kinds:
    """What was decided at every step, and why."""
    return [(d.step, d.timestep, d.full, d.reason) for d in decisions]


@dataclass
class Alone:
    """What became of a request by itself, and its trajectories (mostly one).

    A step that looks like another image's begins one.
    """

    image: Tensor
    trajectories: list[Kinds]


def alone(model: Any, request: Request) -> Alone:
    """Run a request by itself; ``model`` decides about batches as a whole."""
    rfc_compile.reset(model)
    trajectories: list[Kinds] = []
    while not request.finished:
        step(model, [request])
        newest = rfc_compile.stats(model).decisions[-1]
        if newest.step == 0 or newest.reason == "discontinuity":
            trajectories.append([])
        trajectories[-1] += kinds([replace(newest, step=len(trajectories[-1]))])
    return Alone(request.x, trajectories)
