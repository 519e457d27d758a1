"""Fingerprints: what identifies a model and a sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rfc_compile.errors import OptionError
from rfc_compile.io.json_files import JSON
from rfc_compile.version import __version__


def model_fingerprint(model: nn.Module) -> dict[str, JSON]:
    """The class, the parameters' shapes and the config of a model, compiled or not.

    Without weights, so that options also apply to a fine-tuned model.
    """
    plain = _uncompiled(model)
    shapes: list[JSON] = [*sorted({shape_name(x) for x in plain.parameters()})]
    facts: dict[str, JSON] = {
        "class": type(plain).__name__,
        "parameters": sum(x.numel() for x in plain.parameters()),
        "shapes": shapes,
    }
    config = getattr(plain, "config", None)  # of diffusers: a mapping
    if isinstance(config, Mapping):
        facts |= {
            str(name): _plain(value)
            for name, value in config.items()
            if not str(name).startswith("_")  # the model's path, the version it is of
        }
    return facts


def known_of(source: Any) -> dict[str, Any]:
    """The model's facts of a model or a pipeline, and the sampler of a pipeline."""
    if isinstance(source, nn.Module):
        return {"model": model_fingerprint(source)}
    components = getattr(source, "components", None)
    if not isinstance(components, Mapping):
        raise OptionError(
            f"a {type(source).__name__} is neither a model nor a pipeline of diffusers"
        )
    sampler = type(components.get("scheduler")).__name__
    return {
        "model": model_fingerprint(components["transformer"]),
        "sampler": sampler,
    }


def make_fingerprint(
    model: Mapping[str, JSON], sampler: str | None, steps: int | None
) -> Fingerprint:
    """The fingerprint of a model's facts with a sampler, in this environment."""
    return Fingerprint(model, sampler, steps, str(torch.__version__), __version__)


def _uncompiled(model: nn.Module) -> nn.Module:
    inside = model._modules.get("_orig_mod")
    return model if inside is None else inside


def _plain(value: Any) -> JSON:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(x) for name, x in value.items()}
    return str(value)


@dataclass(frozen=True)
class Fingerprint:
    """The model and sampler that options were tuned on; None for unknown values.

    Attributes:
        model: the class of the model, its parameters, and its config's fields.
        sampler: name of the sampler or scheduler.
    """

    model: Mapping[str, JSON]
    sampler: str | None = None
    steps: int | None = None
    torch: str | None = None
    rfc_compile: str | None = None

    def differences(self, other: Fingerprint) -> list[str]:
        """How another model or sampler differs, one field a line; versions are ignored.

        Only fields that both have are compared.
        """
        pairs = {
            f"model.{name}": (self.model.get(name), other.model.get(name))
            for name in (*self.model, *(set(other.model) - set(self.model)))
        }
        pairs["sampler"] = (self.sampler, other.sampler)
        pairs["steps"] = (self.steps, other.steps)
        return [
            f"{name} is {new!r}, tuned with {old!r}"
            for name, (old, new) in pairs.items()
            if old is not None and new is not None and old != new
        ]


def shape_name(x: Tensor) -> str:
    """A shape as text: ``128x512``."""
    return "x".join(map(str, x.shape))
