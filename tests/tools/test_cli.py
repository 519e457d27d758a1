"""The command line as its users run it: real processes, real pictures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rfc_compile.tools.cli import main
from rfc_compile.tools.cli.demo import SCHEDULERS

SCRIPT = Path(sys.executable).with_name("rfc-compile")
DEMO = ("demo", "--inner", "eager", "--steps", "6", "--images", "2")


def rfc_compile(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rfc_compile", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


def one_line(text: str) -> str:
    """The only line of an error message; libraries may log as they are imported."""
    assert "Traceback" not in text
    (line,) = (line for line in text.splitlines() if "error: " in line)
    return line


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "new" / "folder"


@pytest.fixture(scope="module")
def demo(output: Path) -> str:
    """What a small demo prints."""
    result = rfc_compile(*DEMO, "--tolerances", "0.01", "--output", str(output))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_demo_prints_a_table(demo: str, output: Path) -> None:
    header = next(line for line in demo.splitlines() if "setting" in line)
    assert re.search(r"NFC.*time.*speed-up.*PSNR mean.*PSNR min", header)
    cells = {
        row[1].strip(): [cell.strip() for cell in row[2:-1]]
        for row in (re.split(r"[\u2502|]", line) for line in demo.splitlines())
        if len(row) == 8
    }
    nfc, _, speed_up, *quality = cells["uncached"]
    assert (nfc, speed_up, quality) == ("6", "1.00x", ["identical"] * 2)
    nfc, seconds, speed_up, *quality = cells["tolerance 0.01"]
    assert 3 <= int(nfc) <= 6  # the first three are always full
    assert re.fullmatch(r"\d+\.\d\d s", seconds)
    assert re.fullmatch(r"\d+\.\d\dx \[\d+\.\d\d, \d+\.\d\d\]", speed_up)
    if nfc == "6":
        assert quality == ["identical"] * 2
    else:
        mean, least = (float(cell.removesuffix(" dB")) for cell in quality)
        assert 15 < least <= mean < 100
    assert f"Pictures are in {output}." in demo


def test_demo_writes_two_pictures(demo: str, output: Path) -> None:
    assert sorted(path.name for path in output.iterdir()) == [
        "images.png",
        "tolerance_0.01.png",
    ]
    for path in output.iterdir():
        with Image.open(path) as image:
            image.load()
            pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
        height, width, _ = pixels.shape
        assert 200 < height < 3000
        assert 300 < width < 3000
        assert (pixels == 255).all(axis=-1).mean() > 0.05  # a white page
        assert pixels.std() > 20  # with something drawn on it


def test_demo_draws_prompts(tmp_path: Path) -> None:
    prompts = ("google grinning face", "fluent red apple")
    result = rfc_compile(
        *DEMO, "--tolerances", "0.02", "--output", str(tmp_path), *prompts
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "2 images of emoji-flux, euler, guidance 3, 6 steps" in result.stdout
    assert (tmp_path / "images.png").exists()


def test_a_word_that_the_model_does_not_know_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "none"
    assert main.main(["demo", "--output", str(output), "google grining face"]) == 2
    assert "grinning" in one_line(capsys.readouterr().err)
    assert not output.exists()


def test_a_bad_argument_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main.main(["draw"])
    assert exit_info.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    line = one_line(err)
    assert all(text in line for text in ("draw", "demo"))


def test_an_output_that_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    try:
        code: object = main.main([*DEMO, "--output", str(file / "pictures")])
    except SystemExit as exit_info:
        code = exit_info.code
    assert code == 2
    line = one_line(capsys.readouterr().err)
    assert "--output" in line
    assert str(file / "pictures") in line


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--steps", "-3"),
        ("--steps", "1"),
        ("--steps", "1001"),
        ("--steps", "2.5"),
        ("--steps", "\u00b2"),
        ("--images", "0"),
        ("--seed", "-1"),
        ("--scheduler", "plms"),
        ("--guidance", "strong"),
        ("--guidance", "nan"),
        ("--tolerances", ""),
        ("--tolerances", "0.2,"),
        ("--tolerances", "0.2,low"),
        ("--tolerances", "-0.5"),
        ("--tolerances", "inf"),
        ("--inner", "rfc"),
        ("--colour", "red"),
    ],
)
def test_a_bad_value_is_named(
    option: str, value: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main.main(["demo", "--output", str(tmp_path / "none"), f"{option}={value}"])
    assert exit_info.value.code == 2
    output = capsys.readouterr()
    line = one_line(output.err)
    assert option in line
    assert value.split(",")[-1] in line
    assert option != "--scheduler" or all(name in line for name in SCHEDULERS)
    assert output.out == ""
    assert not (tmp_path / "none").exists()


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main.main([])
    assert exit_info.value.code == 2
    assert "COMMAND" in one_line(capsys.readouterr().err)


def test_the_installed_script_lists_the_commands() -> None:
    result = subprocess.run(
        [SCRIPT, "--help"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0
    assert result.stderr == ""
    for name, summary in main.COMMANDS.items():
        assert re.search(rf"^ +{name} +{summary}$", result.stdout, re.MULTILINE)
    assert "demo" in main.COMMANDS


def test_demo_help_lists_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main.main(["demo", "--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    options = ("output", "steps", "images", "guidance", "scheduler", "tolerances")
    for option in (*options, "inner", "seed"):
        assert f"--{option} " in text
    assert all(name in text for name in SCHEDULERS)
