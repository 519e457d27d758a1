"""Functions of the user's that a command is given by name: `package.module:factory`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from rfc_compile.errors import OptionError, one_line


def is_factory(spec: str) -> bool:
    """Whether an argument names a function and no path that exists."""
    return ":" in spec and not Path(spec).exists()


def call_factory(spec: str) -> Any:
    """What `package.module:factory` returns; modules of the current folder count."""
    module_name, _, name = spec.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(import_module(module_name), name)()
    except Exception as error:
        raise OptionError(f"{spec}: {one_line(error)}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
