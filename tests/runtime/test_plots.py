"""The pictures: what is drawn is what was decided and measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from denoising import compiled, guided_steps, run, small_glyph
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from options import MODULES

import rfc_compile
from rfc_compile.errors import how_to_install

STEPS = 16


def size_of(figure: Figure, path: Path) -> int:
    """Bytes of the picture, written and looked at."""
    figure.savefig(path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    return len(data)


def texts(ax: Axes) -> list[str]:
    return [text.get_text().strip() for text in ax.texts]


def test_the_decisions_of_every_branch_are_drawn(tmp_path: Path) -> None:
    model = compiled(small_glyph(1), threshold=0.3)
    list(guided_steps(model))
    stats = rfc_compile.stats(model)
    figure = stats.plot()
    assert size_of(figure, tmp_path / "stats.png") > 5000
    assert figure.get_suptitle().endswith(", predicted by taylor 1")
    errors, decided = figure.axes
    assert len(decided.patches) == len(stats.decisions)
    first, dots = errors.lines[:2]
    own = [d for d in stats.decisions if d.branch == 0 and d.statistic is not None]
    assert list(first.get_xdata()) == [d.step for d in own]
    assert list(first.get_ydata()) == [d.statistic for d in own]
    assert list(dots.get_xdata()) == [d.step for d in own if d.full]
    _, labels = decided.get_legend_handles_labels()
    assert set(labels) == {
        f"{'full' if d.full else 'cached'} ({d.reason})" for d in stats.decisions
    }


def test_nothing_yet_is_drawn_as_nothing(tmp_path: Path) -> None:
    model = compiled(small_glyph(1))
    assert size_of(rfc_compile.stats(model).plot(), tmp_path / "stats.png")
    figure = rfc_compile.explain(model).plot()
    assert size_of(figure, tmp_path / "explain.png")
    assert figure.axes[0].get_title() == "no region"


@pytest.mark.parametrize("options", [{}, {"cache_dtype": "bfloat16"}])
def test_regions_hang_on_their_stream(tmp_path: Path, options: dict[str, Any]) -> None:
    model = compiled(small_glyph(2), **MODULES, **options)
    run(model)
    explanation = rfc_compile.explain(model)
    (found,) = explanation.maps
    assert [region.name for region in found.regions] == list(found.errors)
    assert all(0 < error < 1 for error in found.errors.values())
    stats = rfc_compile.stats(model)
    assert found.cached == pytest.approx(1 - stats.nfc / stats.steps)
    figure = explanation.plot()
    assert size_of(figure, tmp_path / "explain.png") > 5000
    saved, erring = figure.axes[:2]
    for ax in (saved, erring):
        assert len(ax.patches) == len(found.regions) == 4
    assert texts(erring)[0].startswith("transformer_blocks.0.attn1 (attention)")
    assert texts(erring)[0].endswith(f"{found.errors['region_000_attn']:.2g}")
    inside = sum(region.flops for region in found.regions)
    share = explanation.coverage * found.regions[0].flops * found.cached / inside
    assert texts(saved)[0].endswith(f"{share:.1%}")


@pytest.mark.parametrize(
    ("estimator", "known"),
    [("reuse", False), ("rfe", False), ("taylor", True), ("subspace", True)],
)
def test_errors_are_known_where_enough_is_kept(estimator: str, known: bool) -> None:
    model = compiled(small_glyph(2), **MODULES, estimator=estimator)
    run(model)
    (found,) = rfc_compile.explain(model).maps
    assert ("region_003_mlp" in found.errors) == known


def test_a_run_that_has_ended_has_no_errors() -> None:
    model = compiled(small_glyph(1))
    with rfc_compile.trajectory("named", num_steps=20):
        run(model)
    (found,) = rfc_compile.explain(model).maps
    assert found.errors == {}
    assert found.cached is not None
    saved, bar = rfc_compile.explain(model).plot().axes
    assert len(saved.patches) == len(found.regions)
    assert bar.get_xlabel() == "FLOPs saved, mean of the calls"


def test_without_matplotlib_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)
        elif name.startswith("rfc_compile.report.") and name.endswith("_plot"):
            monkeypatch.delitem(sys.modules, name)
    wanted = f"plot() needs {how_to_install('matplotlib')}"
    assert "pip install 'rfc-compile[demo]'" in wanted
    for found in (rfc_compile.stats(), rfc_compile.explain()):
        with pytest.raises(ModuleNotFoundError) as raised:
            found.plot()
        assert str(raised.value) == wanted
