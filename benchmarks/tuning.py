"""How long tuning and checking take, and whether what was found holds again.

    rfc-compile tune --target-speedup 3        the bundled model, defaults else
    rfc-compile check rfc.json --time          other seeds, another process

Both are processes of their own, as in a terminal or a pipeline of CI.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.report import Grid, console, save, show

WANTED: Final = 3.0
"""The speed-up that is asked for."""

TOLERANCE: Final = 0.1
"""How far from it the second run may be."""

TUNE_MINUTES, CHECK_MINUTES = 10, 3
"""How long each may take on two cores."""


@dataclass(frozen=True)
class Tuned:
    """What tuning found and checking measured.

    Attributes:
        options: that were found.
        tune_seconds: of the process.
        check_seconds: of the process.
        speedup: when it was tuned.
        again: in the check.
        psnr: mean in dB, when it was tuned.
        psnr_again: in the check.

    """

    options: dict[str, Any]
    tune_seconds: float
    check_seconds: float
    speedup: float
    again: float
    psnr: float
    psnr_again: float

    def verdicts(self) -> list[str]:
        """The claims, and whether they hold."""
        off = abs(self.again / WANTED - 1)
        claims = [
            (
                self.tune_seconds < 60 * TUNE_MINUTES,
                f"tune ended after {self.tune_seconds / 60:.1f} min "
                f"(wanted: {TUNE_MINUTES} at most)",
            ),
            (
                self.check_seconds < 60 * CHECK_MINUTES,
                f"check ended after {self.check_seconds / 60:.1f} min "
                f"(wanted: {CHECK_MINUTES} at most)",
            ),
            (
                off <= TOLERANCE,
                f"a speed-up of {WANTED:g} was asked for and {self.again:.2f} measured "
                f"with other seeds: {off:.0%} off (wanted: {TOLERANCE:.0%} at most)",
            ),
        ]
        return [f"{'met' if met else 'missed'}: {text}" for met, text in claims]


def _run(*arguments: str) -> float:
    """Seconds that a subcommand takes."""
    command = [sys.executable, "-m", "rfc_compile", *arguments]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def measure(extra: Sequence[str]) -> Tuned:
    """Tune, then check; ``extra`` arguments go to the first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found, report = folder / "rfc.json", folder / "check.json"
        wanted = ("--target-speedup", str(WANTED), "--output", name)
        tune_seconds = _run("tune", *wanted, *extra)
        check_seconds = _run("check", str(found), "--time", "--json", str(report))
        tuned, checked = (json.loads(file.read_text()) for file in (found, report))
    return Tuned(
        options=tuned["options"],
        tune_seconds=tune_seconds,
        check_seconds=check_seconds,
        speedup=tuned["measured"]["speedup"],
        again=checked["measured"]["speedup"],
        psnr=tuned["measured"]["psnr"],
        psnr_again=checked["measured"]["psnr"],
    )


def run(*, quick: bool) -> None:
    """Measure, print and write `results/tuning.json` and `tuning.md`."""
    found = measure(("--time-limit", "3") if quick else ())
    rows = [
        ["tuned", f"{found.speedup:.2f}x", f"{found.psnr:.1f} dB"],
        ["checked", f"{found.again:.2f}x", f"{found.psnr_again:.1f} dB"],
    ]
    options = ", ".join(f"{name}={value}" for name, value in found.options.items())
    grid = Grid(options, ["", "speed-up", "PSNR, mean"], rows)
    show(grid)
    console.print("\n".join(found.verdicts()), highlight=False)
    save(
        "tuning",
        "Tuning and checking the bundled model",
        {"tuned": asdict(found)},
        [grid.markdown(), *(f"- {line}" for line in found.verdicts())],
    )
