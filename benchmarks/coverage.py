"""`python -m benchmarks.coverage`: what is cached of every denoiser of the tests.

Writes docs/COVERAGE.md. Every class has a tiny config with random weights and is called
once. No times are in it, so another run on the same versions writes the same file.
"""

import sys
import warnings
from pathlib import Path
from typing import Any, Final

import torch

import rfc_compile
from benchmarks.report import Grid, console

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENT: Final = ROOT / "docs" / "COVERAGE.md"
HEADER: Final = (
    "class",
    "graphs",
    "regions",
    "of the blocks' FLOPs",
    "why less, or why it breaks",
)

_OPTIONS: Final = {
    "inner": "eager",
    "schedule": "interval",
    "granularity": "module",
    "min_coverage": 0.0,
}
_ENOUGH: Final = 0.95
_INTRODUCTION: Final = """\
# Coverage

What the backend finds in each denoiser of `tests/support/denoisers`: classes of
diffusers, a variant of the config after the dash, at least 2 layers in every stack.
*Graphs* is the number that Dynamo makes of a forward, 1 where it is not broken.
*Regions* are found / expected from the code of the class, over all graphs, of
`granularity="module"`; by default they are merged into whole stacks of blocks. The
share of the repeated blocks' FLOPs inside regions is that of these tiny sizes; it grows
with the size.

Written by `make coverage` (`python -m benchmarks.coverage`), {versions}.

"""


def main() -> None:
    """Measure every class and replace the document."""
    import diffusers

    grid = Grid("Classes", HEADER, [_row(name) for name in _denoisers()])
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    text = _INTRODUCTION.format(versions=versions) + grid.markdown()
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(text, encoding="utf-8")
    console.print(f"{len(grid.rows)} classes are in {DOCUMENT.relative_to(ROOT)}")


def _denoisers() -> dict[str, Any]:
    """The test's registry of denoisers, by name."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from denoisers import ALL

    return ALL


def _row(name: str) -> list[str]:
    denoiser = _denoisers()[name]
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    model = denoiser.model()
    compiled = torch.compile(model, backend="rfc", options=_OPTIONS)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", rfc_compile.UncachedWarning)
        compiled(**denoiser.first_call())
    found = rfc_compile.explain(compiled)
    console.print(f"{name}: {len(found.regions)} regions", soft_wrap=True)
    reasons = [denoiser.why] if denoiser.why else []
    if not reasons and (found.block_coverage < _ENOUGH or found.graphs > 1):
        reasons = [f"{item.candidate}: {item.reason}" for item in found.refused]
        reasons += [*found.uncached_reasons, *found.graph_breaks]
    return [
        name,
        str(found.graphs),
        f"{len(found.regions)} / {denoiser.regions}",
        f"{found.block_coverage:.1%}",
        "; ".join(dict.fromkeys(reasons)).replace("|", "/"),
    ]


if __name__ == "__main__":
    main()
