"""The training scripts as their readers run them: real processes, a few steps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from rfc_compile.tools.measure.bundled_models import MODELS
from rfc_compile.tools.measure.motion_hunyuan import LENGTH, WIDTH
from rfc_compile.tools.measure.word_table import load_words

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(
    name: str, *arguments: str, cwd: Path, path: str = "/usr/bin:/bin"
) -> tuple[int, str]:
    """Exit code, and what was printed."""
    result = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env={**os.environ, "PATH": path},
    )
    return result.returncode, result.stdout + result.stderr


def test_noise_and_variance_are_learnt_resumed_and_exported(tmp_path: Path) -> None:
    common = ("--images", "16", "--batch", "4", "--output", "model")
    epsilon = (*common, "--prediction", "epsilon")
    code, text = run("train_glyph_dit.py", *epsilon, "--steps", "2", cwd=tmp_path)
    assert code == 0, text
    more = ("--steps", "3", "--resume")
    code, text = run("train_glyph_dit.py", *epsilon, *more, cwd=tmp_path)
    assert re.findall(r"^step (\d) of 3", text, re.M) == ["3"]
    other = ("--prediction", "v", "--steps", "4", "--resume")
    code, text = run("train_glyph_dit.py", *common, *other, cwd=tmp_path)
    assert code == 1
    assert "has prediction 'epsilon', not 'v'" in text
    trained = MODELS["glyph-dit-epsilon"]
    model = trained.load(folder=tmp_path / "model")
    assert model.config.out_channels == 6
    assert model.proj_out_2.weight.abs().max() > 0
    exported = (
        "glyph-dit-epsilon",
        "model.training.pt",
        "exported",
        "--newest",
        "--drawn",
        "1",
    )
    code, text = run("export_checkpoint.py", *exported, cwd=tmp_path)
    assert code == 0, text
    assert (tmp_path / "exported" / "sheet.png").exists()
    again = trained.load(folder=tmp_path / "exported")
    assert trained.sample(again, [3], seed=0, steps=2).isfinite().all()
    wrong = ("emoji-flux", "model.training.pt", "wrong")
    code, text = run("export_checkpoint.py", *wrong, cwd=tmp_path)
    assert code == 1
    assert "model.training.pt is not of emoji-flux" in text


def test_clips_are_learnt(tmp_path: Path) -> None:
    arguments = ("--steps", "2", "--batch", "2", "--output", "model")
    code, text = run("train_motion_hunyuan.py", *arguments, cwd=tmp_path)
    assert code == 0, text
    folder = tmp_path / "model"
    model = MODELS["motion-hunyuan"].load(folder=folder)
    assert model.proj_out.weight.abs().max() > 0
    words = load_words(folder, LENGTH, WIDTH)
    assert words.tokens(["7 left clockwise"]).min() > 0
    again = (*arguments[:-1], "again", "--start", "model")
    code, text = run("train_motion_hunyuan.py", *again, cwd=tmp_path)
    assert code == 0, text
    more = MODELS["motion-hunyuan"].load(folder=tmp_path / "again")
    assert not torch.equal(more.proj_out.weight, model.proj_out.weight)
    code, text = run("train_motion_hunyuan.py", "--resume", cwd=tmp_path)
    assert code == 1
    assert "leave out --resume to start anew" in text


PACKAGES = (
    *("emoji-datasource-twitter", "emoji-datasource-google"),
    "@lobehub/fluent-emoji-3d",
)


def test_emoji_need_npm_or_their_packages(tmp_path: Path) -> None:
    arguments = ("--steps", "1", "--data", "data")
    code, text = run("train_emoji_flux.py", *arguments, cwd=tmp_path, path="")
    assert code == 1
    assert "npm is missing: install Node.js" in text
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho 'npm ERR! no network' >&2\nexit 7\n")
    npm.chmod(0o755)
    path = f"{npm.parent}:/bin"
    code, text = run("train_emoji_flux.py", *arguments, cwd=tmp_path, path=path)
    assert code == 1
    assert "could not fetch emoji-datasource-twitter@16.0.0" in text
    assert "no network" in text
    for name in PACKAGES:
        package = tmp_path / "data" / "node_modules" / name / "package.json"
        package.parent.mkdir(parents=True)
        package.write_text("{}")
    code, text = run("train_emoji_flux.py", *arguments, cwd=tmp_path)
    assert code == 1
    assert "does not hold the emoji" in text
    assert "they are fetched again" in text


def test_the_variance_that_is_right_costs_nothing() -> None:
    """Exact images and the true variance are the true step back."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from train_glyph_dit import Noising
    finally:
        sys.path.remove(str(EXAMPLES))
    kept = torch.linspace(0.999, 0.001, 1000)
    t = torch.tensor([0, 1, 500, 999])
    none = torch.zeros(4, 1, 1, 1)
    exact = Noising(kept).divergence(none, none, t)
    torch.testing.assert_close(exact, none, atol=1e-4, rtol=0)
    assert (Noising(kept).divergence(none + 1, none, t)[1:] > 0).all()
    assert (Noising(kept).divergence(none, none + 0.1, t) > 0).all()
