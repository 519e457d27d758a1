"""What explain and stats print and draw, for somebody who sees it the first time."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from denoising import compiled, run, small_glyph
from matplotlib.figure import Figure
from options import MODULES

import rfc_compile
from rfc_compile.report.numbers import counted, in_words, scaled, size
from rfc_compile.report.statistics import REASONS
from rfc_compile.schedules.decision import Decision


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (counted(1, "region"), "1 region"),
        (counted(95, "region"), "95 regions"),
        (counted(0, "region"), "0 regions"),
        (scaled(74381216.7e6, "FLOP"), "74.4 TFLOP"),
        (scaled(999.6, "FLOP"), "1 kFLOP"),
        (scaled(0, "FLOP"), "0 FLOP"),
        (size(1536 * 1024), "1.5 MiB"),
        (size(1023), "0.999 KiB"),
        (size(0), "0 B"),
        (in_words(11_901_410_000), "11.9 billion"),
        (in_words(4_200_000), "4.2 million"),
        (in_words(38_912), "38,912"),
    ],
)
def test_numbers_are_read_at_a_glance(text: str, wanted: str) -> None:
    assert text == wanted


def test_a_pipeline_stands_for_its_transformer() -> None:
    model = compiled()
    pipe = SimpleNamespace(components={"vae": torch.nn.Linear(1, 1)})
    pipe.components |= {"transformer": model, "scheduler": object()}
    run(model, steps=4)
    assert rfc_compile.explain(pipe) == rfc_compile.explain(model)
    assert rfc_compile.stats(pipe) == rfc_compile.stats(model)
    rfc_compile.reset(pipe)
    assert rfc_compile.stats(model).decisions == ()


def test_a_pipeline_of_two_transformers_stands_for_both() -> None:
    models = [compiled(small_glyph(blocks)) for blocks in (1, 2)]
    for model in models:
        run(model, steps=3)
    names = ("transformer", "transformer_2")
    pipe = SimpleNamespace(components=dict(zip(names, models, strict=True)))
    assert rfc_compile.explain(pipe).graphs == 2
    assert rfc_compile.stats(pipe) == rfc_compile.stats(models[1])


@pytest.mark.parametrize("ask", [rfc_compile.explain, rfc_compile.stats])
def test_something_else_is_told_what_to_pass(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(TypeError, match=r"a function has no parameters .* pass the"):
        ask(torch.compile(lambda x: x, backend="eager"))
    with pytest.raises(TypeError, match=r"a dict has no parameters"):
        ask({})


def test_a_model_that_was_not_compiled_says_so() -> None:
    text = str(rfc_compile.explain(small_glyph()))
    assert "no graph of this model was compiled with backend='rfc'" in text
    assert "0" not in text


def test_what_fell_back_stands_in_the_statistics() -> None:
    model = compiled(torch.nn.Linear(4, 4))
    with pytest.warns(rfc_compile.UncachedWarning), torch.no_grad():
        model(torch.ones(1, 4))
    first, reason = str(rfc_compile.stats(model)).splitlines()
    assert first == "no step yet"
    assert reason.startswith("uncached: this forward runs uncached: ")


def test_the_speed_up_and_the_branches_are_told() -> None:
    decisions = [
        Decision(step, branch, 0.0, full=not step, reason=reason, statistic=None)
        for step, reason in enumerate(["warmup", "scheduled", "scheduled"])
        for branch in (0, 1)
    ]
    found = rfc_compile.Statistics(nfc=2, steps=3, decisions=tuple(decisions))
    assert str(found).splitlines() == [
        "3 steps, 2 guidance branches: 2 full, 4 cached (3.0x fewer); "
        "its state is freed",
        "  full: 2 warmup (first steps of a run)",
        "  cached: 4 scheduled (by the schedule)",
    ]


def is_cut_off(figure: Figure) -> bool:
    """Whether anything that is drawn reaches beyond the page; sizes are in inches."""
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    inside = min(box.x0, box.y0, width - box.x1, height - box.y1)
    return bool(inside < -0.02)


@pytest.mark.parametrize("options", [{}, MODULES])
def test_nothing_of_a_picture_is_cut_off(options: dict[str, str]) -> None:
    model = compiled(**options)
    run(model, steps=12)
    for found in (rfc_compile.explain(model), rfc_compile.stats(model)):
        assert not is_cut_off(found.plot())


def test_the_page_notices_what_is_cut_off() -> None:
    figure = Figure(figsize=(2, 2))
    figure.text(0.9, 0.5, "much too long")
    assert is_cut_off(figure)


def test_a_stack_is_drawn_on_its_stream() -> None:
    model = compiled()
    run(model, steps=3)
    explanation = rfc_compile.explain(model)
    saved, bar = explanation.plot().axes
    (text,) = saved.texts
    assert re.search(r"\(stack\)  \d+\.\d%$", text.get_text())
    assert [line for line in saved.lines if line.get_color() == "C0"]
    assert bar.get_xlabel().startswith("FLOPs saved, ")


def test_every_reason_is_put_in_words() -> None:
    listed = re.search(r"reason: (.*?)statistic:", Decision.__doc__ or "", re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"``(\w+)``", listed[1])) == REASONS.keys()
