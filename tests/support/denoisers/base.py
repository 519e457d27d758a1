"""A denoiser of diffusers with a tiny random config, and how a sampler calls it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rfc_compile.tools.inspection.model_inputs import make_inputs

STEPS = 12

Latent = Any
"""A tensor, or a list of tensors where the model takes one per sample."""


@dataclass(frozen=True)
class Denoiser:
    """One class (or variant of its configuration).

    Attributes:
        name: the class, with the variant after a dash.
        build: the model, with at least 2 layers in every stack.
        inputs: keyword arguments of the first call of a run, the same at every call.
        regions: regions that the code has, over all its graphs.
        graphs: graphs that Dynamo makes of a forward; 1 means it has no graph break.
        share: least share of the blocks' FLOPs inside regions.
        why: why the share is less than 0.95, or no region is found, or it breaks.
        latent: the argument that the sampler updates.
        timestep: the argument that holds the timestep.
        also: further arguments that hold it.
        first, last: timesteps at the two ends of a run.
        velocity: the part of the model's result that the sampler follows, in the
            latent's shape.

    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Any]]
    regions: int
    graphs: int = 1
    share: float = 0.95
    why: str = ""
    latent: str = "hidden_states"
    timestep: str = "timestep"
    also: tuple[str, ...] = ()
    first: float = 1000.0
    last: float = 20.0
    velocity: Callable[[Any], Latent] = lambda result: result[0]

    def model(self, seed: int = 0) -> nn.Module:
        """The model with random weights, no two modules alike."""
        torch.manual_seed(seed)
        model = self.build().eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                fan_in = math.prod(parameter.shape[1:])
                parameter.normal_(0, 0.7 / math.sqrt(fan_in))
            elif not name.endswith("weight"):
                parameter.normal_(0, 0.05)
        return model

    def first_call(self, seed: int = 0) -> dict[str, Any]:
        """The keyword arguments of a run's first call."""
        torch.manual_seed(1000 + seed)
        return self.at(self.inputs(), 0)

    def at(self, call: dict[str, Any], step: int) -> dict[str, Any]:
        """The call with the timestep of another step."""
        value = self.first + (self.last - self.first) * step / STEPS
        after: dict[str, Any] = {}
        for name in (self.timestep, *self.also):
            before = call[name]
            after[name] = (
                torch.full_like(before, value)
                if isinstance(before, Tensor)
                else type(before)(value)
            )
        return {**call, **after}

    def twice(self, call: dict[str, Any]) -> dict[str, Any]:
        """The call with each sample once more, from other noise."""
        latent = call[self.latent]
        rows, lists = len(latent), isinstance(latent, list)

        def by_row(value: Any) -> bool:
            return isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows

        def doubled(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: doubled(part) for name, part in value.items()}
            if by_row(value):
                return torch.cat([value, value])
            if not isinstance(value, list | tuple) or not value:
                return value
            if all(map(by_row, value)) and not lists:
                return type(value)(map(doubled, value))
            tensors = any(isinstance(part, Tensor) for part in value)
            per_sample = len(value) == rows and (lists or not tensors)
            return type(value)([*value, *value]) if per_sample else value

        noise = [x.roll(1, -1) for x in latent] if lists else latent.roll(1, -1)
        both = [*latent, *noise] if lists else torch.cat([latent, noise])
        return {**doubled(call), self.latent: both}

    def advance(self, call: dict[str, Any], result: Any, step: int) -> dict[str, Any]:
        """The call of the next step: one Euler step along the unit velocity."""
        latent, velocity = call[self.latent], self.velocity(result)
        after: Latent = (
            [_euler(x, v) for x, v in zip(latent, velocity, strict=True)]
            if isinstance(latent, list)
            else _euler(latent, velocity)
        )
        return {**self.at(call, step + 1), self.latent: after}

    def walk(
        self,
        denoise: Callable[..., Any],
        seed: int = 0,
        steps: int = STEPS,
        *,
        twice: bool = False,
    ) -> Iterator[tuple[dict[str, Any], Any]]:
        """A run: every call's keyword arguments and its result."""
        call = self.first_call(seed)
        call = self.twice(call) if twice else call
        for step in range(steps):
            with torch.no_grad():
                result = denoise(**call)
            yield call, result
            call = self.advance(call, result, step)


def by_rules(
    build: Callable[[], nn.Module], *, whole: bool = False, **sizes: int
) -> Callable[[], dict[str, Any]]:
    """Inputs as `rfc-compile inspect` makes them, of two samples, with random values.

    Args:
        build: the model that they are for.
        whole: whether timesteps are whole numbers, as of samplers with a table of them.
        sizes: fields of ``InputSizes``; the config or a default tells the others.

    """

    def inputs() -> dict[str, Any]:
        with torch.random.fork_rng():
            model = build()
        made = make_inputs(model, {"batch": 2, **sizes}, torch.float32)
        return {
            name: x.long() if whole and name.startswith("timestep") else _random(x)
            for name, x in made.items()
        }

    return inputs


def _random(value: Any) -> Any:
    """Random numbers where the rules have ones; tables, masks and numbers stay."""
    if isinstance(value, dict):
        return {name: _random(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_random, value))
    ones = isinstance(value, Tensor) and value.is_floating_point()
    return torch.randn_like(value) if ones and bool((value == 1).all()) else value


def _euler(latent: Tensor, velocity: Tensor) -> Tensor:
    v = velocity.to(latent.dtype)
    step = v / v.float().square().mean().sqrt().clamp(min=1e-6) / STEPS
    return torch.empty_like(latent).copy_(latent - step)  # in the latent's strides


def flat(result: Any) -> Tensor:
    """All numbers of a model's result in one vector."""
    if isinstance(result, Tensor):
        return result.detach().reshape(-1).float()
    parts = result.values() if isinstance(result, dict) else result
    return torch.cat([flat(part) for part in parts if part is not None])
