"""The examples as their readers run them: real processes."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel
from paths import ROOT

from rfc_compile.tools.measure import glyph_dit

EXAMPLES = ROOT / "examples"


def run_example(name: str, *arguments: str, cwd: Path) -> str:
    """What an example prints."""
    result = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
    )
    assert result.returncode == 0, result.stderr
    assert "Warning: rfc_compile" not in result.stderr
    return result.stdout


def test_no_example_is_forgotten() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "custom_dit.py",
        "export_checkpoint.py",
        "multi_gpu.py",
        "quickstart.py",
        "serving.py",
        "train_emoji_flux.py",
        "train_glyph_dit.py",
        "train_motion_hunyuan.py",
        "training_loop.py",
    }


def test_quickstart_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It always compiles with inductor, which takes too long here to run it."""
    monkeypatch.chdir(tmp_path)
    assert callable(runpy.run_path(str(EXAMPLES / "quickstart.py"))["main"])
    assert not list(tmp_path.iterdir())


def test_custom_dit(tmp_path: Path) -> None:
    arguments = ("--inner", "eager", "--steps", "8")
    text = run_example("custom_dit.py", *arguments, cwd=tmp_path)
    assert text.startswith("1 graph; cached steps predict 1 region with ")
    assert re.search(r"^region_000_stack +stack ", text, re.M)
    steps, full = re.findall(r"^(\d+) steps: (\d+) full, \d+ cached", text, re.M)[0]
    assert int(steps) == 8
    assert 3 <= int(full) <= 8
    (quality,) = re.findall(r"^PSNR (\S+) dB$", text, re.M)
    assert 15 < float(quality) < 200 or quality == "inf"
    assert not list(tmp_path.iterdir())


def test_train_glyph_dit(tmp_path: Path) -> None:
    output = tmp_path / "new" / "model"
    arguments = ("--steps", "2", "--images", "64", "--batch", "8")
    text = run_example(
        "train_glyph_dit.py", *arguments, "--output", str(output), cwd=tmp_path
    )
    (loss,) = re.findall(r"^step 2 of 2: loss (\d+\.\d+)$", text, re.M)
    assert 0.1 < float(loss) < 10
    assert text.splitlines()[-1] == f"saved {output}"
    assert {path.name for path in output.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    model = DiTTransformer2DModel.from_pretrained(output, torch_dtype=torch.float32)
    ignored = {"_name_or_path", "_diffusers_version", "_use_default_values"}
    kept = [
        {name: value for name, value in dict(config).items() if name not in ignored}
        for config in (model.config, glyph_dit.load_glyph_dit().config)
    ]
    assert kept[0] == kept[1]
    # it has learnt something, and draws
    assert model.proj_out_2.weight.abs().max() > 0
    labels = torch.tensor([3])
    images = glyph_dit.sample(model.eval(), labels=labels, seed=0, steps=2)
    assert images.isfinite().all()
