"""Adapters that are written into the weights of a model, by peft and diffusers.

    model.fuse_lora()                            reset(model)
    tuner.merge_adapter()                        reset(tuner)
    hotswap_adapter_from_state_dict(model, ...)  reset(model)

These write by way of ``.data``, which no version counter shows
(runtime/parameter_versions.py). Whatever else changes an adapter changes the code that
Dynamo sees, or numbers and tensors that a graph is given.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from importlib import import_module
from typing import Any

from rfc_compile.integrations.methods import wrap
from rfc_compile.runtime import registry


def connect() -> None:
    """Listen to the libraries that are imported; safe to call again."""
    loaders = sys.modules.get("diffusers.loaders.peft")
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    if "peft" in sys.modules:
        with contextlib.suppress(ImportError):  # a version without it
            wrap(
                import_module("peft.utils.hotswap"),
                "hotswap_adapter_from_state_dict",
                _resetting,
            )
    wrap(getattr(loaders, "PeftAdapterMixin", None), "fuse_lora", _resetting)
    wrap(getattr(tuners, "BaseTuner", None), "merge_adapter", _resetting)


def _resetting(write: Any) -> Any:
    """Drop the state of a model, the first argument, once its weights are written."""

    @functools.wraps(write)
    def resetting(*args: Any, **kwargs: Any) -> Any:
        try:
            return write(*args, **kwargs)
        finally:
            registry.reset(args[0] if args else kwargs["model"])

    return resetting
