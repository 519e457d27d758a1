"""Where the benchmarks of this folder write their results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rfc_compile.io.files import replace_file
from rfc_compile.tools.measure.environment import Grid, environment
from rfc_compile.tools.measure.terminal import console, show

RESULTS: Final = Path(__file__).parent / "results"

__all__ = ["RESULTS", "Grid", "console", "save", "show"]


def save(
    name: str,
    title: str,
    data: Mapping[str, Any],
    parts: Sequence[str],
    folder: Path | None = None,
) -> None:
    """Write `<folder>/<name>.json` and `<folder>/<name>.md`.

    Args:
        name: of the two files, without a suffix.
        title: heading of the Markdown file.
        data: the measurements; the environment is added.
        parts: what follows the environment in the Markdown file.
        folder: where to; the benchmarks' results without it.
    """
    record = environment("python -m benchmarks")
    folder = folder or RESULTS
    folder.mkdir(exist_ok=True)
    text = json.dumps({"environment": asdict(record), **data}, indent=1)
    replace_file(folder / f"{name}.json", text + "\n")
    page = "\n".join([f"# {title}\n", f"{record}\n", *parts])
    replace_file(folder / f"{name}.md", page)
