"""Where the benchmarks of this folder write their results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rfc_compile.io.files import replace_file
from rfc_compile.tools.measure.environment import Grid, environment, page
from rfc_compile.tools.measure.terminal import console, show

RESULTS: Final = Path(__file__).parent / "results"

__all__ = ["RESULTS", "Grid", "console", "publish", "save", "show", "verdict"]


def verdict(met: bool, claim: str) -> str:
    """A claim, and whether it holds."""
    return f"{'met' if met else 'missed'}: {claim}"


def publish(
    name: str,
    title: str,
    data: Mapping[str, Any],
    grids: Sequence[Grid],
    claims: Sequence[str] = (),
) -> None:
    """Print tables and claims, and `save` them."""
    for grid in grids:
        show(grid)
    if claims:
        console.print("\n".join(claims), highlight=False, soft_wrap=True)
    save(name, title, data, grids, claims)


def save(
    name: str,
    title: str,
    data: Mapping[str, Any],
    grids: Sequence[Grid],
    claims: Sequence[str] = (),
    *,
    introduction: str = "",
    folder: Path | None = None,
) -> None:
    """Write `results/<name>.json` and `<name>.md`; the environment is added to both."""
    record = environment("python -m benchmarks")
    folder = folder or RESULTS
    folder.mkdir(exist_ok=True)
    data = {"environment": asdict(record), **data}
    replace_file(folder / f"{name}.json", json.dumps(data, indent=1) + "\n")
    text = page(title, record, introduction, claims, grids)
    replace_file(folder / f"{name}.md", text)
