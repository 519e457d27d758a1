"""Running `rfc-compile inspect`, in this process or in another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from denoisers import ALL

from rfc_compile.tools.cli import main

FACTORY = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
    def forward(self, x, timestep):
        return self.linear(x) * timestep.cos()[:, None, None]

def small():
    return Small(), {"x": torch.ones(1, 4, 8), "timestep": torch.ones(1)}

def in_order():
    return Small(), (torch.ones(1, 4, 8), torch.ones(1))

def fails():
    raise RuntimeError("no weights here\\nsecond line")

def half():
    return Small()

def wrong_inputs():
    return Small(), {"x": torch.ones(1, 4, 7), "timestep": torch.ones(1)}

number = 3
"""


MODULES = ("--options", "granularity=module")
"""Every attention and MLP is a region of its own."""


class Output(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The only line, of an error that is the user's."""
        assert self.code == 2, self
        assert self.out == ""
        assert "Traceback" not in self.err
        (line,) = self.err.splitlines()
        assert line.startswith("rfc-compile inspect: error: ")
        return line


class Inspect:
    """Runs the command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Output:
        self._capsys.readouterr()
        try:
            code = main.main(["inspect", *map(str, arguments)])
        except SystemExit as exit_info:
            code = int(exit_info.code or 0)
        captured = self._capsys.readouterr()
        return Output(code, captured.out, captured.err)

    def json(self, *arguments: object) -> dict[str, Any]:
        result = self(*arguments, "--json")
        assert result.code == 0, result.err
        record: dict[str, Any] = json.loads(result.out)
        return record


def model_folder(name: str, folder: Path) -> Path:
    """A folder with the config of a denoiser, and no weights."""
    model: Any = ALL[name].build()
    model.save_config(folder / name)
    (config,) = (folder / name).iterdir()
    assert config.name == "config.json"
    return folder / name


def process(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rfc_compile", "inspect", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
    )
