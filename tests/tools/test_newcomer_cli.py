"""The command line as somebody meets it who has read nothing: quiet and helpful."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from rfc_compile.errors import UncachedWarning
from rfc_compile.tools.cli import main
from rfc_compile.tools.cli.quiet import quiet
from rfc_compile.version import __version__


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The only line of a usage error."""
    with pytest.raises(SystemExit) as exit_info:
        main.main(arguments)
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


IMPORTS = """
import sys
import torch
import rfc_compile, rfc_compile.backend, rfc_compile.tools.cli.main
extras = {"diffusers", "jinja2", "matplotlib", "PIL", "rich", "torchmetrics"}
print(sorted(extras & set(sys.modules)))
layer = torch.nn.Linear(4, 4)
model = torch.compile(layer, backend="rfc", options={"inner": "eager"})
with torch.no_grad():
    model(torch.ones(1, 4))
asked = {"torchao", "transformers", "diffusers", "matplotlib", "rich", "accelerate"}
print(sorted(asked & set(sys.modules)))
"""


def test_nothing_is_imported_that_nobody_asked_for() -> None:
    result = python(IMPORTS)
    assert result.stdout == "[]\n[]\n", result.stderr


WITHOUT_EXTRAS = """
import sys
extras = "rich diffusers matplotlib torchmetrics jinja2 PIL transformers torchao"
sys.modules.update(dict.fromkeys(extras.split()))
from rfc_compile.tools.cli.main import COMMANDS, main
for command in COMMANDS:
    try:
        main([command, "--help"])
    except SystemExit as exit_info:
        assert exit_info.code == 0, command
print(main(["demo"]), "is the exit code")
"""


def test_help_needs_no_extra() -> None:
    result = python(WITHOUT_EXTRAS)
    assert "2 is the exit code" in result.stdout, result.stderr
    for command in main.COMMANDS:
        assert f"usage: rfc-compile {command} " in result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("rfc-compile demo: error: needs ")
    assert "pip install 'rfc-compile[" in line
    assert "pip install -e '.[" in line


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main.main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"rfc-compile {__version__}\n"


def test_a_command_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "inspct", "models")
    assert (
        "no command 'inspct'; did you mean 'inspect'? Allowed: analyse, bench, " in line
    )


def test_an_option_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "bench", "--quik")
    assert line.startswith("rfc-compile bench: error: unrecognized arguments: --quik")
    assert "; did you mean '--quick'? Allowed: --help, " in line


def test_nothing_near_is_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" not in error_of(capsys, "bench", "--zzz")


def talk() -> None:
    """What other libraries, and we, say."""
    logging.getLogger("somebody.else").warning("a notice of another library")
    warnings.warn("old", DeprecationWarning, stacklevel=2)
    warnings.warn("rfc_compile: this runs uncached", UncachedWarning, stacklevel=2)


def test_only_what_is_ours_is_shown(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with quiet(verbose=False):
        talk()
        assert os.environ["TQDM_DISABLE"] == "1"
    assert capsys.readouterr().err == "rfc-compile: warning: this runs uncached\n"
    assert not caplog.records
    assert "TQDM_DISABLE" not in os.environ
    assert logging.root.manager.disable == 0


def test_verbose_shows_all(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.warns() as caught, quiet(verbose=True):
        talk()
    assert [str(one.message) for one in caught] == [
        "old",
        "rfc_compile: this runs uncached",
    ]
    assert [record.message for record in caplog.records] == [
        "a notice of another library"
    ]


def test_verbose_may_stand_anywhere() -> None:
    assert main.parse(["--verbose", "bench"]).verbose
    assert main.parse(["bench", "--verbose"]).verbose
    assert not main.parse(["bench"]).verbose


CLOSED = "http://127.0.0.1:9"
"""Nothing listens there."""


def test_a_hub_out_of_reach_is_said_soon(tmp_path: Path) -> None:
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "rfc_compile", "inspect", "some/folder"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_ENDPOINT": CLOSED, "HF_HOME": str(tmp_path)},
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "some/folder: no such folder" in line
    assert "the hub is out of reach" in line
    assert time.monotonic() - start < 60  # most of it imports; it was twice 25 more
