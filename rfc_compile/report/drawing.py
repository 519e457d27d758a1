"""The modules that draw; only there is matplotlib imported."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from rfc_compile.errors import how_to_install


def drawing(name: str) -> ModuleType:
    """The module of this folder that draws ``name``, which needs matplotlib."""
    try:
        return import_module(f"rfc_compile.report.{name}")
    except ModuleNotFoundError as error:
        package, *_ = (error.name or "").split(".")
        raise ModuleNotFoundError(
            f"plot() needs {how_to_install(package)}", name=package
        ) from error
