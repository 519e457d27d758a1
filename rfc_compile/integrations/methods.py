"""Listening to methods of other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_NOTED = "_rfc_noted"  # attribute of a method that has been wrapped


def wrap(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    """Put ``wrapper(method)`` in the place of a method, once, if there is one."""
    method = getattr(owner, name, None)
    if method is not None and not hasattr(method, _NOTED):
        wrapped = wrapper(method)
        setattr(wrapped, _NOTED, True)
        setattr(owner, name, wrapped)
