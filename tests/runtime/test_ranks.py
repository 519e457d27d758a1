"""Several ranks of torch.distributed, in real processes (on gloo)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rank_scenarios
from denoising import compiled, steps_of
from on_ranks import run_on_ranks
from paths import ROOT
from rank_drawing import single_process

from rfc_compile import OptionError

EXAMPLE = ROOT / "examples" / "multi_gpu.py"


def test_ranks(tmp_path: Path) -> None:
    """Groups of 2 and 4 ranks draw what one process draws."""
    groups = {2: rank_scenarios.TWO, 4: rank_scenarios.FOUR}
    outcomes = run_on_ranks(groups, single_process(), tmp_path)
    assert len(outcomes) == sum(n * len(some) for n, some in groups.items())
    failed = [f"{name}:\n{error}" for name, error in outcomes.items() if error]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("group", ["world", 3, True, object()])
def test_what_is_no_process_group(group: Any) -> None:
    with pytest.raises(OptionError, match=r"process_group=.*not allowed.*new_group"):
        next(steps_of(compiled(process_group=group)))


def test_the_example(tmp_path: Path) -> None:
    """With torchrun, as its reader runs it."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["--inner", "eager", "--steps", "15"]
    result = subprocess.run(
        [sys.executable, *launch, EXAMPLE, *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    found = re.findall(
        r"^rank (\d): (\d+) full steps of 15, PSNR (\S+) dB$", result.stdout, re.M
    )
    assert [rank for rank, _, _ in found] == ["0", "1"]
    full = [int(count) for _, count, _ in found]
    assert all(1 < count < 15 for count in full)
    assert all(20 < float(quality) < 100 for _, _, quality in found)
    assert "the 2 ranks that share the computation decide together" in result.stdout
    assert found[0][1:] == found[1][1:]
