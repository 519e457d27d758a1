"""The command line shows what is ours: not what other libraries log and warn of."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

_SILENT: Final = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Read by libraries when they are imported."""

_OURS: Final = "rfc_compile: "
"""How the text of every warning of ours begins."""


@contextmanager
def quiet(verbose: bool) -> Iterator[None]:
    """Other libraries log errors only, and only our warnings show, one line each.

    Who sets ``TORCH_LOGS`` wants logs and gets them. ``verbose`` changes nothing.
    """
    if verbose:
        yield
        return
    before = {name: os.environ.get(name) for name in _SILENT}
    disabled = logging.root.manager.disable
    for name, value in _SILENT.items():
        os.environ.setdefault(name, value)
    if "TORCH_LOGS" not in os.environ:
        logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", f"^{_OURS}")
            warnings.showwarning = _show
            yield
    finally:
        logging.disable(disabled)
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = str(message).removeprefix(_OURS)
    print(f"rfc-compile: warning: {text}", file=file or sys.stderr)
