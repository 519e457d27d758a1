"""Classes of diffusers from their configs, without weights. Needs the extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from huggingface_hub import constants, get_session
from torch import nn

from rfc_compile.errors import OptionError
from rfc_compile.io.json_files import Unexpected, load_json
from rfc_compile.tools.inspection.weightless import build_without_weights

_CONFIG = "config.json"
_SUBFOLDER = "transformer"

_SECONDS = 5.0
"""In which the hub has to answer."""


def build_from_config(target: str, dtype: torch.dtype) -> nn.Module:
    """The model that a config describes; its weights take no memory.

    ``target`` is a model's folder, a pipeline's folder with ``transformer/``, or the
    hub
    id of either.
    """
    config = _read_config(target)
    name = config.get("_class_name")
    model_class = getattr(diffusers, str(name), None)
    if name is None or not isinstance(model_class, type):
        raise OptionError(f"{target}: diffusers has no class _class_name={name!r}")
    if not issubclass(model_class, nn.Module):
        raise OptionError(f"{target}: {name} is not a model")
    in_float32 = getattr(model_class, "_keep_in_fp32_modules", None) or ()
    from_config: Any = getattr(model_class, "from_config")  # noqa: B009  # of ConfigMixin
    try:
        return build_without_weights(lambda: from_config(config), dtype, in_float32)
    except Exception as error:
        raise OptionError(
            f"{target}: {name} cannot be built from its config "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error


def _read_config(target: str) -> Mapping[str, Any]:
    folder = Path(target)
    if not folder.exists():
        return _config_of_hub_id(target)
    for path in (folder / _CONFIG, folder / _SUBFOLDER / _CONFIG):
        if path.is_file():
            try:
                config = load_json(path)
            except Unexpected as error:
                raise OptionError(f"{path}: {error}") from error
            if not isinstance(config, dict):
                raise OptionError(f"{path} is not a model's config")
            return config
    raise OptionError(f"{target}: neither {_CONFIG} nor {_SUBFOLDER}/{_CONFIG} in it")


def _config_of_hub_id(target: str) -> Mapping[str, Any]:
    parts = target.split("/")
    if len(parts) != 2 or not all(part.strip(".") for part in parts):
        raise OptionError(
            f"{target}: no such folder, and neither a hub id (owner/name) nor "
            "package.module:factory"
        )
    offline = not _hub_answers()
    for subfolder in (_SUBFOLDER, None):
        try:
            config: Mapping[str, Any] = diffusers.AutoModel.load_config(
                target, subfolder=subfolder, local_files_only=offline
            )
            return config
        except Exception as error:
            reason = _first_line(error)
    if offline:
        reason = "the hub is out of reach, and the model is not in its cache"
    raise OptionError(f"{target}: no such folder, and not loaded as a hub id: {reason}")


def _hub_answers() -> bool:
    """Asked once and briefly: the hub's own client tries again for a minute."""
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception:  # whatever the client it is built on raises
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
