"""`rfc-compile analyse`: its numbers are those of the modules themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from denoising import guided_steps, run, small_glyph
from paths import ROOT
from torch import Tensor, nn

import rfc_compile
from rfc_compile import TargetError
from rfc_compile.tools.cli.main import main
from rfc_compile.tools.measure.analysis import Analysis, analyse
from rfc_compile.tools.measure.analysis_plot import analysis_figure
from rfc_compile.tools.measure.image_grid import as_png
from rfc_compile.tools.measure.target import Target

STEPS, INTERVAL = 14, 3


def draw(model: nn.Module, seed: int) -> Tensor:
    """Steps small enough to be one run."""
    return run(model, seed=seed, steps=40, first=40 - STEPS - 6)


def factory() -> tuple[nn.Module, Any]:
    """What the command is given."""
    return small_glyph(2), draw


@pytest.fixture(scope="module")
def target() -> Target:
    return Target("small", small_glyph(2), draw, "ddim")


@pytest.fixture(scope="module")
def found(target: Target) -> Analysis:
    return analyse(target, seed=3, interval=INTERVAL)


def observed(target: Target, module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Inputs and outputs of a module at every step, seen from outside."""
    values: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values.append((inputs[0].clone(), output.clone()))

    with module.register_forward_hook(note):
        target.draw(target.model, 3)
    return values


def test_changes_and_errors_are_those_of_the_module(
    target: Target, found: Analysis
) -> None:
    blocks: Any = target.model.transformer_blocks
    values = observed(target, blocks[1].ff)
    (region,) = [r for r in found.regions if r.module == "transformer_blocks.1.ff"]
    assert found.steps == len(values) == len(region.ratio)
    for s in range(found.steps):
        if s == 0:
            assert region.input_change[s] is region.ratio[s] is None
            continue
        (i, o), (i_before, o_before) = values[s], values[s - 1]
        moved, changed = (
            (now - then).flatten(1).norm(dim=1)
            for now, then in ((i, i_before), (o, o_before))
        )
        expected = (moved / i.flatten(1).norm(dim=1)).mean()
        assert region.input_change[s] == pytest.approx(float(expected), rel=1e-3)
        expected = (changed / moved).mean()
        assert region.ratio[s] == pytest.approx(float(expected), rel=1e-3)
    kept = [0, *range(1, found.steps, INTERVAL)]
    for s in range(found.steps):
        error = region.errors["reuse"][s]
        if s in kept:
            assert error is None
            continue
        o, last = values[s][1], values[max(k for k in kept if k < s)][1]
        away = (o - last).flatten(1).norm(dim=1) / o.flatten(1).norm(dim=1)
        assert error == pytest.approx(float(away.mean()), rel=1e-3)


def test_taylor_is_the_extrapolation_in_time(target: Target, found: Analysis) -> None:
    blocks: Any = target.model.transformer_blocks
    values = [output for _, output in observed(target, blocks[0].ff)]
    (region,) = [r for r in found.regions if r.module == "transformer_blocks.0.ff"]
    a, b, c, s = 1, 4, 7, 9
    first, second = (values[c] - values[b]) / 3, (values[b] - values[a]) / 3
    bend = (first - second) / 3
    predicted = values[c] + (s - c) * first + (s - c) ** 2 / 2 * bend
    away = (values[s] - predicted).flatten(1).norm(dim=1)
    expected = (away / values[s].flatten(1).norm(dim=1)).mean()
    assert region.errors["taylor 2"][s] == pytest.approx(float(expected), rel=1e-2)


def test_every_estimator_has_a_number_for_every_region(found: Analysis) -> None:
    names = "reuse", "taylor 2", "rfe 2", "subspace 2"
    assert found.estimators == names
    assert len(found.regions) == 4
    for name in found.estimators:
        for region in found.regions:
            error = region.error(name)
            assert error is not None
            assert 0 < error < 2
    record = json.loads(json.dumps(found.record()))
    assert record["regions"][0]["errors"]["rfe 2"] == found.regions[0].errors["rfe 2"]
    assert record["regions"][0]["ratio_deviation"] == found.regions[0].ratio_deviation


def test_the_picture_holds_the_numbers(found: Analysis) -> None:
    figure = analysis_figure(found)
    assert len(as_png(figure)) > 20_000
    per_region = figure.axes[2]
    for line, name in zip(per_region.lines, found.estimators, strict=True):
        assert list(line.get_ydata()) == [r.error(name) for r in found.regions]


def test_guidance_by_two_calls_and_other_regions() -> None:
    """Both branches count; of a stack there is one region."""

    def draw_guided(model: nn.Module, seed: int) -> Tensor:
        *_, last = guided_steps(model, seed=seed)
        return last

    target = Target("guided", small_glyph(2), draw_guided)
    found = analyse(target, granularity="stack", order=1)
    (region,) = found.regions
    assert (region.kind, found.steps) == ("stack", 20)
    names = "reuse", "taylor 1", "rfe 1", "subspace 1"
    assert found.estimators == names


def test_a_run_too_short_to_predict_is_told(target: Target) -> None:
    short = Target("short", target.model, lambda model, seed: run(model, steps=2))
    with pytest.raises(TargetError, match="short: nothing was predicted in 2 calls"):
        analyse(short)


def test_a_model_without_regions_is_told() -> None:
    plain = nn.Linear(4, 4)
    target = Target("plain", plain, lambda model, seed: model(torch.ones(1, 4)))
    with (
        pytest.warns(rfc_compile.UncachedWarning),
        pytest.raises(TargetError, match=r"plain: nothing was predicted.*no attention"),
    ):
        analyse(target)


def test_the_command_writes_a_picture_and_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    arguments = ["analyse", "tests.tools.test_analyse:factory", "--interval", "3"]
    monkeypatch.chdir(ROOT)
    assert main([*arguments, "--output", str(folder)]) == 0
    printed = capsys.readouterr().out
    record = json.loads((folder / "analysis.json").read_text())
    for region in record["regions"]:
        assert f"{region['module']} ({region['kind']})" in printed
        for error in region["mean_errors"].values():
            assert f"{error:.1%}" in printed
    assert (folder / "analysis.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in folder.iterdir()) == ["analysis.json", "analysis.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-target"], "no-such-target"),
        (["--interval", "1"], "--interval 1"),
        (["--order", "7"], "order=7"),
        (["--output", "/dev/null/x"], "--output"),
    ],
)
def test_bad_arguments_end_with_code_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["analyse", *arguments]) == 2
    assert message in capsys.readouterr().err
