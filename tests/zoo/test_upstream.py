"""The runner of others' compile tests, on a small tree that is built like theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from denoisers import ALL
from marks import cases
from paths import SUPPORT
from torch._dynamo.exc import FailOnRecompileLimitHit, UserError

import rfc_compile

FEWER = 4
"""Of the classes `make test` takes one in so many, `make nightly` all."""

REFUSED = FailOnRecompileLimitHit, UserError

PLUGIN = SUPPORT / "upstream"
TREE = """
import sys

import pytest
import torch

sys.path.insert(0, {tests!r})
from models import Stack, build, timesteps, tokens


@pytest.mark.skipif(torch.device("cpu").type == "cpu", reason="needs an accelerator")
class TorchCompileTesterMixin:
    stack = Stack

    def setup_method(self):
        torch.compiler.reset()

    def run(self, model):
        with torch._dynamo.config.patch(error_on_recompile=True), torch.no_grad():
            model(tokens(), timesteps(9))
            model(tokens(), timesteps(8))

    def test_whole(self):
        self.run(torch.compile(build(self.stack), fullgraph=True))

    def test_in_place(self):
        model = build(self.stack)
        model.compile(fullgraph=True)
        self.run(model)

    def test_mode(self):
        self.run(torch.compile(build(self.stack), fullgraph=True, mode="default"))

    def test_compile_works_with_aot(self):
        raise NotImplementedError


class TestOthers:
    def test_anything(self):
        raise NotImplementedError


class TestStack(TorchCompileTesterMixin):
    pass


class Broken(Stack):
    def run_blocks(self, x, c, text):
        torch._dynamo.graph_break()
        return super().run_blocks(x, c, text)


class TestBroken(TorchCompileTesterMixin):
    stack = Broken


class TestEager(TorchCompileTesterMixin):
    def run(self, model):
        build(self.stack)(tokens(), timesteps(9))
"""


def test_their_checks_run_by_rfc(tmp_path: Path) -> None:
    """Others are left out; a graph break fails, and so does a check without rfc."""
    (tmp_path / "test_models.py").write_text(TREE.format(tests=str(SUPPORT)))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "rfc_by_default", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PLUGIN), "RFC_INNER": "eager"},
    )
    assert result.returncode == 1, result.stderr
    out = result.stdout
    assert "6 failed, 3 passed, 4 deselected" in out
    assert "nothing was compiled by rfc" in out
    assert "rfc: 9 checks, 3 cached, 3 regions" in out
    failed = {line.split()[1] for line in out.splitlines() if line[:6] == "FAILED"}
    names = ("whole", "in_place", "mode")
    assert failed == {
        f"test_models.py::{test}::test_{name}"
        for test in ("TestBroken", "TestEager")
        for name in names
    }


def with_repeated_blocks() -> list[str]:
    """One denoiser of every class that names the blocks it repeats."""
    kinds = {name.partition("-")[0]: name for name in reversed(list(ALL))}
    return [
        name
        for kind, name in kinds.items()
        if getattr(getattr(diffusers, kind, None), "_repeated_blocks", None)
    ]


REPEATED = with_repeated_blocks()


@pytest.mark.parametrize(
    "name", cases(REPEATED, REPEATED[::FEWER], pytest.mark.nightly)
)
def test_repeated_blocks_compile_once(name: str) -> None:
    """As diffusers checks it: no graph break, and one compilation for all layers.

    Where the inner backend fails as well, for blocks that differ in their sizes or that
    break, there is nothing to check.
    """
    denoiser = ALL[name]

    def check(model: Any, **settings: Any) -> None:
        torch._dynamo.reset()
        model.compile_repeated_blocks(fullgraph=True, **settings)
        with torch._dynamo.config.patch(recompile_limit=1), torch.no_grad():
            for step in range(2):
                model(**denoiser.at(denoiser.first_call(), step))

    model = denoiser.model()
    try:
        check(model, backend="rfc", options={"inner": "eager", "min_coverage": 0.0})
    except REFUSED:
        with pytest.raises(REFUSED):
            check(denoiser.model(), backend="eager")
    else:
        assert rfc_compile.explain(model).regions
