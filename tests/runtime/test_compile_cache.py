"""Compiled code outlives its process, and does not grow with the number of blocks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models import Stack, build, timesteps, tokens
from options import MODULES
from paths import SUPPORT
from torch._inductor.graph import GraphLowering

pytestmark = pytest.mark.slow

PROGRAM = """
import json, sys
import torch
from torch._dynamo.utils import counters
import rfc_compile
from models import Block, Stack, build, timesteps, tokens

class Small(Block):  # its kernels are few
    def forward(self, x, c, text):
        return x + self.mlp(x + c[:, None])

taken, given = sys.argv[1:]
if taken:
    torch.compiler.load_cache_artifacts(open(taken, "rb").read())
options = {"threshold": 9.0, "min_coverage": 0.0, "estimator": "reuse"}
small = build(type("OneBlock", (Stack,), {"depth": 1, "block": Small}))
model = torch.compile(small, backend="rfc", options=options)
with torch.no_grad():
    outputs = [model(tokens() * (1 + k / 50), timesteps(9 - k)) for k in range(6)]
decisions = [decision.full for decision in rfc_compile.stats(model).decisions]
assert len(decisions) == 6 and 0 < sum(decisions) < 6, decisions
if given:
    artifacts, _ = torch.compiler.save_cache_artifacts()
    open(given, "wb").write(artifacts)
print(json.dumps({
    "outputs": [output.double().sum().item().hex() for output in outputs],
    "hits": counters["aot_autograd"]["autograd_cache_hit"],
    "misses": counters["aot_autograd"]["autograd_cache_miss"],
    "bypasses": counters["aot_autograd"]["autograd_cache_bypass"],
    "lowered": counters["inductor"]["fxgraph_cache_miss"],
}))
"""


CHEAP_KERNELS = {
    "TORCHINDUCTOR_VEC_ISA_OK": "0",
    "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
}
"""An empty cache has neither the compiler's abilities nor torch's headers, which take
longer than the kernels."""


def process(folder: Path, taken: str = "", given: str = "") -> Any:
    """One process with this compile cache: what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, taken, given],
        cwd=SUPPORT,
        env={
            **os.environ,
            "TORCHINDUCTOR_CACHE_DIR": str(folder),
            "PYTHONHASHSEED": "random",
            **CHEAP_KERNELS,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


GRAPHS = 3  # probe, full and cached


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    """From the folder of the first one, and from its artifacts on another machine."""
    first, second = tmp_path / "first", tmp_path / "second"
    artifacts = str(tmp_path / "artifacts")
    cold = process(first, given=artifacts)
    assert (cold["hits"], cold["misses"], cold["lowered"]) == (0, GRAPHS, GRAPHS)
    for warm in (process(first), process(second, artifacts)):
        assert (warm["hits"], warm["misses"], warm["lowered"]) == (GRAPHS, 0, 0)
        assert warm["bypasses"] == 0
        assert warm["outputs"] == cold["outputs"]


def kernels(monkeypatch: pytest.MonkeyPatch, blocks: int) -> list[set[str]]:
    """The different kernels of each graph, as code: probe, full and cached."""
    code: list[str] = []
    torch.compiler.reset()
    model = build(type("Deep", (Stack,), {"depth": blocks}))
    options = {**MODULES, "threshold": 9.0, "min_coverage": 0.0}
    rfc: Any = torch.compile(model, backend="rfc", options=options)
    with monkeypatch.context() as patched, torch.no_grad():
        patched.setattr(GraphLowering, "save_output_code", staticmethod(code.append))
        for k in range(4):
            rfc(tokens() * (1 + k / 50), timesteps(9 - k))
    start = r"= async_compile\.\w+\(.*?'''(.*?)'''"
    return [set(re.findall(start, text, re.DOTALL)) for text in code]


def test_identical_blocks_share_their_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full step is fused as the inner backend does it: over the blocks' borders.

    Where a chain of fusions ends then depends on their number, by a kernel or two. The
    blocks of a cached step are one submodule.
    """
    uncached = torch._inductor.config.patch(fx_graph_cache=False)
    with uncached, torch._functorch.config.patch(enable_autograd_cache=False):
        few, many = (kernels(monkeypatch, blocks) for blocks in (4, 7))
    assert len(few) == 3
    assert all(few)
    assert many[0] == few[0]
    assert abs(len(many[1]) - len(few[1])) <= 1
    assert many[2] == few[2]
