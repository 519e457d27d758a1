"""The matrix: its cells, its rivals, its file, and who judges it."""

from __future__ import annotations

import itertools
import math
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rfc_compile.config.options import Options
from rfc_compile.errors import OptionError
from rfc_compile.tools.bench.methods import METHODS
from rfc_compile.tools.bench.methods.spectrum import full_steps, weights_of
from rfc_compile.tools.measure.bundled_models import MODELS

with pytest.MonkeyPatch.context() as patch:  # the benchmarks are not installed
    patch.syspath_prepend(Path(__file__).parents[2])
    from benchmarks import left_out, matrix, report, scores
    from benchmarks.cells import GUIDANCE, SHARES, STEPS, Cell, cells_of, fraction
    from benchmarks.matrix_tables import write_tables
    from benchmarks.rivals import RIVALS, shortest, spectrum, taylorseer
    from benchmarks.scores import DEFAULT, FEWER, OURS, PAPER, UNTOLD, Line, Scores

LEVELS = (("a", "b", "c"), (1, 2), (10, 20, 30, 40))


def test_a_fraction_holds_every_pair() -> None:
    drawn = fraction(LEVELS)
    held = {pair for row in drawn for pair in itertools.combinations(enumerate(row), 2)}
    rows = itertools.product(*LEVELS)
    assert held == {
        pair for row in rows for pair in itertools.combinations(enumerate(row), 2)
    }
    assert len(drawn) == 12  # the least that can hold them
    assert drawn == fraction(LEVELS)


@pytest.mark.parametrize("name", MODELS)
def test_the_cells_of_a_model_are_few_and_balanced(name: str) -> None:
    cells = cells_of(name)
    samplers = {cell.sampler for cell in cells}
    assert len(cells) <= 1.1 * len(samplers) * len(GUIDANCE)
    assert len(set(map(str, cells))) == len(cells)
    assert any(cell.is_int8 for cell in cells)
    for levels, counted in (
        (STEPS, Counter(cell.steps for cell in cells)),
        (SHARES, Counter(cell.share for cell in cells)),
        (samplers, Counter(cell.sampler for cell in cells)),
    ):
        assert set(counted) == set(levels)
        assert max(counted.values()) - min(counted.values()) <= 2


def test_full_steps_are_a_share_of_the_calls() -> None:
    cell = Cell("glyph-dit", "ddim", 1.0, False, 50, 16)
    assert (cell.calls, cell.full) == (50, 8)
    heun = Cell("glyph-dit", "heun int8", 1.0, False, 20, 16)
    assert heun.is_int8
    assert (heun.calls, heun.full) == (39, 6)


@pytest.mark.parametrize(("calls", "full"), [(50, 8), (50, 18), (28, 6), (20, 3)])
def test_rivals_keep_to_the_full_steps(calls: int, full: int) -> None:
    settings = spectrum(calls, full)
    assert settings
    for setting in settings:
        assert len(full_steps(**setting, total=calls)) == full
    for setting in taylorseer(calls, full):
        count = 2 + (calls - 2) // setting["interval"]
        assert count <= full
        assert 2 + (calls - 2) // (setting["interval"] - 1) > full


def test_every_rival_is_in_bench() -> None:
    assert {rival.method for rival in RIVALS} <= set(METHODS)
    assert shortest(lambda n: 10 // n, 3, 10) == 3


def test_a_threshold_is_steered_to_the_full_steps() -> None:
    (rival,) = (item for item in RIVALS if item.method.startswith("FirstBlock"))
    seen = []

    def run(setting: dict[str, float]) -> float:
        seen.append(setting["threshold"])
        return 10 / (1 + setting["threshold"])  # 5 at a threshold of 1

    tried = list(rival.tries(run, 50, 5))  # type: ignore[arg-type]
    assert len(tried) == len(seen)
    nearest = min(seen, key=lambda threshold: abs(math.log(threshold)))
    assert 0.7 < nearest < 1.4


def test_spectrum_grows_its_intervals() -> None:
    full = full_steps(warmup=3, window=2, growth=1.0, total=30)
    assert full == [0, 1, 2, 4, 7, 11, 16, 22, 29]


def test_spectrum_blends_a_ridge_fit_with_the_local_line() -> None:
    known, step, total = [0, 1, 2, 4, 7, 11], 13, 30
    values = np.cos(np.array(known) / 9)
    places = 2 * np.array([*known, step]) / (total - 1) - 1
    basis = np.polynomial.chebyshev.chebvander(places, 4)
    gram = basis[:-1].T @ basis[:-1] + 0.1 * np.eye(5)
    fit = basis[-1] @ np.linalg.solve(gram, basis[:-1].T @ values)
    line = values[-1] + (values[-1] - values[-2]) * 2 / 4
    forecast = weights_of(known, step, total).numpy() @ values
    assert forecast == pytest.approx((fit + line) / 2)


def line(
    model: str, method: str, psnr: float, config: str = "", **more: object
) -> Line:
    sampler = "euler" if model == "emoji-flux" else "ddim"
    cell = Cell(model, sampler, 1.0, False, 50, 16)
    values = {"images": 4, "weights": "w", "full": 8.0, "psnr": psnr, **more}
    return Line(cell, method, config, **values)  # type: ignore[arg-type]


def two_models() -> Scores:
    """On the first, `wide` is ahead; on the second, the default is."""
    return Scores(
        [
            line("glyph-dit", OURS, 40.0, DEFAULT, psnr_ode=30.0),
            line("glyph-dit", OURS, 42.0, "wide"),
            line("glyph-dit", FEWER, 36.0, psnr_ode=35.0),
            line("glyph-dit", PAPER, 39.0),
            line("emoji-flux", OURS, 33.0, DEFAULT),
            line("emoji-flux", OURS, 31.0, "wide"),
            line("emoji-flux", FEWER, 32.0),
            line("emoji-flux", "broken", 99.0, error="it fails"),
        ]
    )


def test_what_is_left_out_is_not_chosen_on() -> None:
    chosen = left_out.chosen_without(two_models())
    assert chosen == {"glyph-dit": DEFAULT, "emoji-flux": "wide"}
    rows = left_out.table(two_models(), chosen).rows
    assert [row[4] for row in rows] == ["+1.0", "-1.0"]  # 40 to 39, 31 to 32
    assert rows[0][6] == "+3.0 (wide)"


def test_nothing_can_be_left_out_of_one_model() -> None:
    with pytest.raises(OptionError, match="1 model"):
        left_out.chosen_without(Scores([line("glyph-dit", OURS, 40.0, DEFAULT)]))


def test_verdicts_count_leads_and_losses() -> None:
    found = scores.verdicts(two_models(), lambda model: DEFAULT)
    assert found[0].startswith("met: as many full steps as asked for in 2 of 2 cells")
    assert found[1].startswith("met: ahead of every rival in 100% of 2 cells")
    assert found[2] == (
        "missed: ahead of the best rival by 1.0 dB on average (wanted: 3)"
    )
    assert "missed: nearer to the ODE's solution" in found[3]
    assert "in 0% of 1 cells" in found[3]
    wide = scores.verdicts(two_models(), lambda model: "wide")
    assert wide[1].startswith("missed: ahead of every rival in 50% of 2 cells")


def test_the_corrector_is_judged_cell_by_cell() -> None:
    found = Scores(
        [
            line("glyph-dit", OURS, 40.0, DEFAULT),
            line("glyph-dit", OURS, 36.0, "corrector=off"),
        ]
    )
    claims = scores.verdicts(found, lambda model: DEFAULT)
    assert claims[-1] == (
        "met: the corrector gives 4.0 dB on average (wanted: 3), 4.0 dB where it is "
        "least (wanted: -0.3), over 1 cells"
    )


def test_tables_hold_every_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    untold = line("glyph-dit", UNTOLD, 36.5, full=10.0)
    failed = line("glyph-dit", "broken", 0.0, error="it fails")
    lines = [*two_models().by_cell.values()]
    known = [found for by_method in lines for found in by_method.values()]
    write_tables([*known, untold, failed])
    page = (tmp_path / "matrix.md").read_text()
    for row in (
        "| rfc, wide | 1 | 42.0 / - |",
        "| 10 of 50 | 5.0 | 36.5 |",
        "| broken | it fails |",
        "| 8 | 33.0 | 32.0 | fewer steps: ",
    ):
        assert row in page
    monkeypatch.setattr(left_out, "read_lines", lambda: known)
    left_out.run(Namespace())
    page = (tmp_path / "left_out.md").read_text()
    assert "| emoji-flux | wide | 1 | 31.0 | -1.0 | -1.0 | +1.0 (default) |" in page


def test_a_run_of_too_many_full_steps_is_no_lead() -> None:
    found = Scores(
        [
            line("glyph-dit", OURS, 50.0, DEFAULT, full=20.0),
            line("glyph-dit", FEWER, 36.0),
        ]
    )
    (cell,) = found.by_cell
    assert found.lead(cell, DEFAULT) is None
    (claim,) = scores.verdicts(found, lambda model: DEFAULT)
    assert claim.startswith("missed: as many full steps as asked for in 0 of 1 cells")


def test_the_newest_line_counts_and_old_weights_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "matrix.jsonl"
    assert scores.read_lines(path) == []
    monkeypatch.setattr(scores, "fingerprint", lambda model: "w")
    for psnr in (30.0, 31.0):
        scores.add_line(line("glyph-dit", FEWER, psnr), path)
    scores.add_line(line("glyph-dit", PAPER, 40.0, weights="older"), path)
    (found,) = scores.read_lines(path)
    assert (found.method, found.psnr) == (FEWER, 31.0)
    assert found.is_of_now
    scores.add_line(line("glyph-dit", OURS, 41.0, weights="older"), path)
    earlier = scores.read_lines(path)
    assert [one.psnr for one in earlier] == [40.0, 41.0], "more of the cell is known"
    assert not any(one.is_of_now for one in earlier)
    assert scores.read_lines(path, now=True) == [found]


def test_only_what_is_missing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("glyph-dit", "ddim", 1.0, False, 50, 16)
    noisy = Cell("glyph-dit", "ddpm", 1.0, False, 50, 16)
    known = [line("glyph-dit", FEWER, 30.0)]
    monkeypatch.setattr(matrix, "read_lines", lambda now: known)
    todo = [item[1] for item in matrix.todo([cell], "", "", 4)]
    assert FEWER not in todo
    assert todo.count(OURS) == len(matrix.EVEN) + len(matrix.ADAPTIVE)
    assert FEWER in [item[1] for item in matrix.todo([cell], "", "", 8)]
    assert {item[1] for item in matrix.todo([cell], "", FEWER, 4)} >= {FEWER}
    assert FEWER not in [item[1] for item in matrix.todo([noisy], "", "", 4)]
    assert not list(matrix.todo([cell], "emoji", "", 4))


def test_a_cell_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "REFERENCES", tmp_path)
    monkeypatch.setattr(matrix, "ODE_STEPS", 12)
    cell = Cell("glyph-dit", "dpmpp_2m", 1.0, False, 8, 50)
    entries = {(method, config): runs for method, config, runs in matrix.entries()}
    fewer = matrix.measure(cell, FEWER, entries[FEWER, ""], 1)
    assert fewer["setting"] == "dpmpp_2m, 4 steps"
    assert 5 < fewer["psnr"] < 60
    assert 5 < fewer["psnr_ode"] < 60
    kept = set(tmp_path.iterdir())
    assert len(kept) == 3  # the run itself, fewer steps, the solution
    name = "TaylorSeer, reference"
    found = matrix.measure(cell, name, entries[name, ""], 1)
    assert found["full"] <= 4.5
    assert found["setting"].startswith("interval=3, order=")
    assert set(tmp_path.iterdir()) == kept
    wrong = matrix.measure(cell, "broken", lambda cell, images: iter([1 / 0]), 1)
    assert wrong["error"].startswith("ZeroDivisionError")


def test_our_options_are_allowed() -> None:
    for options in matrix.EVEN:
        Options.from_mapping({**options, "target_nfc": 8})
    for options in matrix.ADAPTIVE:
        Options.from_mapping({**options, "tolerance": 0.01})
    Options.from_mapping({**matrix.PAPERS_OPTIONS, "threshold": 0.5})


def test_too_many_full_steps_count_for_this_package_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "REFERENCES", tmp_path)
    cell = Cell("glyph-dit", "ddpm", 1.0, False, 4, 50)

    def runs(cell: Cell, images: int) -> Iterator[matrix.Found]:
        wanted = matrix.uncached(cell, cell.scheduler, cell.steps, images)
        yield matrix.Found("close", 4.0, wanted + 0.01)
        yield matrix.Found("far", 3.0, wanted + 0.1)

    assert matrix.measure(cell, OURS, runs, 1)["setting"] == "far"
    error = matrix.measure(cell, "somebody", runs, 1)["error"]
    assert error == "no setting has so few full steps"


def test_solvers_keep_the_shift() -> None:
    flow = Cell("emoji-flux", "euler_shift3", 1.0, False, 50, 16)
    assert matrix.solvers(flow) == ("unipc_shift3", "dpmpp_2m_shift3")
    plain = Cell("emoji-flux", "dpmpp_2m", 1.0, False, 50, 16)
    assert matrix.solvers(plain) == ("unipc", "dpmpp_2m")
    assert matrix.solution(Cell("glyph-dit", "ddpm", 1.0, False, 50, 16), 1) is None
