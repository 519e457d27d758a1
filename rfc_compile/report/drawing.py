"""The modules that draw; only there is matplotlib imported."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def drawing(name: str) -> ModuleType:
    """The module of this folder that draws ``name``, which needs matplotlib.

    Raises:
        ModuleNotFoundError: there is no matplotlib.

    """
    try:
        return import_module(f"rfc_compile.report.{name}")
    except ModuleNotFoundError as error:
        package, *_ = (error.name or "").split(".")
        raise ModuleNotFoundError(
            f"plot() needs {package}: pip install 'rfc-compile[demo]'", name=package
        ) from error
