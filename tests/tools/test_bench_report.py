"""What the benchmark makes of its numbers: choices, verdicts, tables, records."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from rfc_compile.tools.bench import frechet, session
from rfc_compile.tools.bench.methods import METHODS
from rfc_compile.tools.bench.records import (
    Quality,
    Records,
    Score,
    Timing,
    best_at,
    chosen,
)
from rfc_compile.tools.bench.tables import END, START, readme_table, write_readme
from rfc_compile.tools.bench.verdicts import verdicts

OURS, RIVAL = "rfc, module", "SeaCache (diffusers)"


def score(work: float, similarity: float) -> Score:
    return Score(work, similarity, similarity - 1, 0.9, 0.1)


def image(
    method: str, setting: str, work: float, similarity: float, reported: float = 0
) -> Quality:
    report = score(work, reported or similarity)
    return Quality(method, setting, score(work, similarity), report)


def run(method: str, setting: str, work: float, seconds: float) -> Timing:
    return Timing(
        "glyph-dit",
        method,
        setting,
        "inductor",
        nfc=work,
        steps=50,
        seconds=(seconds,) * 3,
        uncached_seconds=(10.0,) * 3,
        extra_bytes=2**20,
    )


def test_speedup_and_share_follow_from_the_times() -> None:
    found = run(OURS, "a", work=10, seconds=2.5)
    assert found.speedup == 4
    assert found.share == pytest.approx(0.8)


def test_the_speedup_is_the_median_of_the_pairs() -> None:
    found = replace(
        run(OURS, "a", work=10, seconds=1),
        seconds=(1.0, 2.0, 4.0),
        uncached_seconds=(2.0, 8.0, 12.0),  # a machine that grows slower
    )
    assert found.ratios == [2, 4, 3]
    assert found.speedup == 3
    assert found.spread == pytest.approx(2 / 3)


def test_the_best_setting_at_a_target_has_no_more_work() -> None:
    found = [image("m", "a", 8, 30), image("m", "b", 11.4, 33), image("m", "c", 12, 35)]
    assert best_at(found, 11) == found[1]
    assert best_at(found, 7) is None
    assert chosen(found, (8, 11, 14)) == found
    assert chosen(found, (2,)) == [found[0]]
    assert chosen([Quality("m", "a", error="no")], (8,)) == []


def test_the_reported_images_choose_nothing() -> None:
    found = [image("m", "a", 8, 30, reported=20), image("m", "b", 8, 29, reported=40)]
    assert best_at(found, 8) == found[0]
    assert chosen(found, (8,)) == [found[0]]


def test_only_chosen_settings_are_compared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frechet, "_TRAINING_STEPS", 3)
    monkeypatch.setattr(frechet, "_CHUNK", 10)
    fora = METHODS["FORA, reference"]
    method = replace(fora, sweep=[s for s in fora.sweep if s["interval"] in (5, 7, 8)])
    size = session.Size(2, (8, 14), 1, 1, (10, 2))
    known = Records(size.images)
    running = session.Session(tmp_path, size, False, known, math.inf)
    running.sweep([method])
    work = [q.selection and q.selection.nfc for q in known.qualities]
    assert work == [10, 8, 7]
    wanted = [best_at(known.qualities, target) for target in size.targets]
    running.compare_chosen([method])
    for found in known.qualities:
        was_chosen = replace(found, report=None) in wanted
        assert (found.report is not None) == was_chosen
        assert found.report != found.selection  # other images
    before = list(known.qualities)
    running.sweep([method])
    running.compare_chosen([method])  # nothing is missing
    assert known.qualities == before == Records.load(tmp_path / "bench.json").qualities


def records(rival_psnr: float, rival_seconds: float) -> Records:
    return Records(
        20,
        [image(OURS, "a", 14, 40), image(RIVAL, "b", 14.2, rival_psnr)],
        [run(OURS, "a", 14, 4), run(RIVAL, "b", 14.2, rival_seconds)],
    )


def words(found: Records) -> list[bool | None]:
    return [verdict.met for verdict in verdicts(found, (14,))]


def test_a_verdict_is_met_or_missed_by_the_numbers() -> None:
    assert words(records(39, 5)) == [True, True, True, None, None]
    assert words(records(41, 5)) == [False, True, True, None, None]
    assert words(records(39, 3)) == [True, True, True, None, None]
    assert words(records(41, 3)) == [False, False, False, None, None]
    lines = [str(verdict) for verdict in verdicts(records(41, 3), (14,))]
    assert lines[0].startswith("missed: best images at NFC 14: 40.00 dB")
    assert RIVAL in lines[2]
    assert lines[3].startswith("not measured: ")


def test_a_verdict_is_about_the_reported_images() -> None:
    found = records(39, 5)
    found.qualities[0] = image(OURS, "a", 14, 40, reported=38)
    assert words(found)[:2] == [False, True]
    found.qualities[0] = replace(found.qualities[0], report=None)
    assert words(found)[:2] == [None, None]


def test_the_share_on_the_large_shape_is_checked() -> None:
    found = records(39, 5)
    fast, slow = run(OURS, "a", 14, 3.0), run("rfc, stack", "a", 14, 3.0)
    for timed in (fast, slow):
        object.__setattr__(timed, "workload", "DiT-B")
    found.timings += [fast, slow]  # 3.33 of 3.57, 93 %
    assert words(found)[3:] == [True, False]


def test_records_survive_a_file(tmp_path: Path) -> None:
    found = records(39, 5)
    found.save(tmp_path / "bench.json", {"torch": "2"})
    assert Records.load(tmp_path / "bench.json") == found
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["environment"]
    assert written["timings"][0]["spread"] == 0


def test_the_readme_table_stands_between_its_markers(tmp_path: Path) -> None:
    table = readme_table(records(39, 5))
    assert f"**{OURS}**" in table
    assert RIVAL in table
    file = tmp_path / "README.md"
    file.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    write_readme(file, table)
    write_readme(file, table)
    assert file.read_text() == f"before\n{START}\n{table}\n{END}\nafter\n"
    file.write_text("nothing")
    with pytest.raises(ValueError, match="lacks"):
        write_readme(file, table)


def test_a_setting_that_is_no_longer_tried_is_left_out() -> None:
    known = Records(
        images=2,
        qualities=[image(OURS, "a", 8, 30), image(OURS, "b", 8, 30)],
        timings=[run(OURS, "b", 8, 1), run(RIVAL, "a", 8, 1)],
    )
    assert known.only({(OURS, "a"), (RIVAL, "a")}) == Records(
        images=2, qualities=known.qualities[:1], timings=known.timings[1:]
    )
