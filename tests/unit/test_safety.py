"""Files are data: whatever others have written into them is refused by its place."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from check_outcomes import GOOD
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rfc_compile
from rfc_compile import OptionError, Options, TunedFileError
from rfc_compile.config.tuned_file import Measured, Tuned
from rfc_compile.io.json_files import MOST_BYTES
from rfc_compile.io.schema import made_of
from rfc_compile.tools.bench.records import Quality, Records, Score, Timing
from rfc_compile.tools.checking.baseline import read_baseline
from rfc_compile.tools.checking.reports import record
from rfc_compile.tools.measure.target import resolve_target
from rfc_compile.tools.tuning.journal import Journal

EVERY_OPTION: dict[str, Any] = {
    item.name: getattr(Options(), item.name) for item in fields(Options)
} | {"full_steps": [0, 4], "inner_options": {"max_autotune": True}, "threshold": 0.5}
TUNED = Tuned(EVERY_OPTION, GOOD.measured, GOOD.fingerprint).record()
RECORDS = Records(
    4,
    [Quality("rfc", "default", Score(12, 40.0, 30.0, 0.9, 1.0))],
    [Timing("glyph-dit", "rfc", "default", "inductor", 12.0, 50, (1.0,), (2.0,))],
)
STUDY: dict[str, Any] = {"seed": 0, "sampler": "ddim", "model": {"class": "Model"}}
KEY = {"trial": {"threshold": 0.5}, "seed": 0}

TOKENS = (
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "1" * 400,
    "-0.0",
    "9223372036854775808",
)
"""Numbers that Python reads and no field should be."""

MARK = "@number@"
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.5, -0.5, 2.0, 1e300, -1e300, 1 << 62])
    | st.sampled_from(["", "auto", "rcs", "module", "\x1b[2J", "a" * 99, "os:system"])
    | st.sampled_from([f"{MARK}{token}" for token in TOKENS]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything inside a value of JSON."""
    if not isinstance(value, dict | list):
        return
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*way, name)
        yield from places(item, (*way, name))


def mutated(text: str, draw: st.DataObject) -> str:
    """A file with one to three of its places changed, taken away or added."""
    value = json.loads(text)
    for _ in range(draw.draw(st.integers(1, 3))):
        ways = list(places(value))
        if not ways:
            break
        *way, last = draw.draw(st.sampled_from(ways))
        inside = value
        for name in way:
            inside = inside[name]
        kind = draw.draw(st.sampled_from(("change", "change", "remove", "add")))
        if kind == "remove":
            del inside[last]
        elif kind == "change":
            inside[last] = draw.draw(VALUES)
        elif isinstance(inside, dict):
            inside[draw.draw(st.text(max_size=5))] = draw.draw(VALUES)
    return with_tokens(json.dumps(value))


def with_tokens(text: str) -> str:
    """A text whose marked strings are the bare numbers."""
    for token in TOKENS:
        text = text.replace(f'"{MARK}{token}"', token)
    return text


def read_options(path: Path) -> None:
    Options.from_mapping(rfc_compile.load(path))


def read_records(path: Path) -> None:
    Records.load(path).points_of("glyph-dit")


def read_study(path: Path) -> None:
    Journal.open(path, STUDY, resume=True).get(KEY, partial(made_of, Measured))


def report() -> str:
    return record(GOOD)


def tuned() -> str:
    return json.dumps(TUNED)


def records(folder: Path) -> str:
    RECORDS.save(folder / "records.json", {"cores": 2})
    return (folder / "records.json").read_text()


FILES: dict[str, tuple[Callable[[Path], object], type[ValueError]]] = {
    "rfc.json": (read_options, TunedFileError),
    "report.json": (read_baseline, TunedFileError),
    "bench.json": (read_records, OptionError),
}


def original(name: str, folder: Path) -> str:
    if name == "bench.json":
        return records(folder)
    return tuned() if name == "rfc.json" else report()


@pytest.mark.parametrize("name", FILES)
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(draw=st.data())
def test_a_changed_file_is_refused_or_means_something(
    name: str, draw: st.DataObject, tmp_path_factory: Any
) -> None:
    """One type of error, of one line that a terminal can show, or valid values."""
    folder = tmp_path_factory.getbasetemp()
    read, error = FILES[name]
    path = folder / name
    path.write_text(mutated(original(name, folder), draw))
    message = "$"
    try:
        read(path)
    except error as refused:
        message = str(refused)
    assert "$" in message or re.search(r": (is not JSON: |must be an object)", message)
    assert message.isprintable()


FIELDS = {
    "rfc.json": ("", "options", "measured", "fingerprint"),
    "report.json": ("", "options", "measured", "fingerprint"),
    "bench.json": ("", "qualities.0", "qualities.0.selection", "timings.0"),
}


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name in FIELDS for place in FIELDS[name]]
)
def test_an_unknown_field_is_refused_by_its_place(
    name: str, place: str, tmp_path: Path
) -> None:
    read, error = FILES[name]
    value = inside = json.loads(original(name, tmp_path))
    path = tmp_path / name
    path.write_text(json.dumps(value))
    read(path)
    for part in place.split(".") if place else ():
        inside = inside[int(part) if part.isdecimal() else part]
    inside["run_me"] = "os:system"
    path.write_text(json.dumps(value))
    with pytest.raises(error) as refused:
        read(path)
    at = place.replace(".0", "[0]")
    where = "$" + (f".{at}" if at else "") + ".run_me is not known"
    assert where in str(refused.value)


def study(folder: Path) -> Path:
    """A study file with one trial."""
    path = folder / "study.jsonl"
    journal = Journal.open(path, STUDY, resume=False)
    journal.add(KEY, TUNED["measured"])
    return path


@settings(max_examples=60, deadline=None, derandomize=True)
@given(draw=st.data())
def test_a_changed_study_is_refused_or_means_something(
    draw: st.DataObject, tmp_path_factory: Any
) -> None:
    path = study(tmp_path_factory.getbasetemp())
    lines = path.read_text().splitlines()
    place = draw.draw(st.integers(0, 1))
    lines[place] = mutated(lines[place], draw)
    path.write_text("\n".join(lines))
    with contextlib.suppress(OptionError):
        read_study(path)


def test_a_study_that_is_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    """Only its last line can have been cut off."""
    path = study(tmp_path)
    whole = path.read_text()
    path.write_text(whole + '{"key": {"tri')
    assert len(Journal.open(path, STUDY, resume=True)) == 1
    assert path.read_text() == whole
    first, second = whole.splitlines()
    path.write_text("\n".join([first, second[:30], second]))
    with pytest.raises(OptionError, match=r"line 2: is not JSON"):
        Journal.open(path, STUDY, resume=True)


@pytest.mark.parametrize("name", FILES)
def test_no_more_is_read_than_a_file_may_have(name: str, tmp_path: Path) -> None:
    """Of what never ends, and tells a size of 0."""
    read, error = FILES[name]
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(error, match=r"it has more than \d+ bytes"):
        read(tmp_path / name)


def test_a_large_object_is_read_in_no_time(tmp_path: Path) -> None:
    path = tmp_path / "rfc.json"
    path.write_text("{" + ",".join(f'"{i}":0' for i in range(80_000)) + "}")
    assert path.stat().st_size < MOST_BYTES
    start = time.perf_counter()
    with pytest.raises(TunedFileError):
        rfc_compile.load(path)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("value", ["/tmp/compiler", ["/tmp/compiler"], {}, None])
def test_a_file_names_no_program(value: Any, tmp_path: Path) -> None:
    """An option of inductor (``cpp.cxx``) may be the path of a compiler."""
    path = tmp_path / "rfc.json"
    options = {**EVERY_OPTION, "inner_options": {"cpp.cxx": value}}
    Tuned(options, None, GOOD.fingerprint).save(path)
    with pytest.raises(TunedFileError) as refused:
        rfc_compile.load(path)
    assert "$.options.inner_options.'cpp.cxx' is " in str(refused.value)


def test_a_file_imports_no_factory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report says of which target it is; only the command line imports one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "imported_by_nobody.py").write_text("raise SystemExit")
    value = json.loads(report())
    value["target"] = "imported_by_nobody:factory"
    (tmp_path / "report.json").write_text(json.dumps(value))
    read_baseline(tmp_path / "report.json")
    assert "imported_by_nobody" not in sys.modules
    with pytest.raises(SystemExit):
        resolve_target("imported_by_nobody:factory")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    (folder / "transformer").mkdir(parents=True)
    index = {
        "_class_name": "DiTPipeline",
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": [None, None],
        "scheduler": [None, None],
    }
    config = {"_class_name": "DiTTransformer2DModel", "num_layers": 1}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    weights = folder / "transformer" / "diffusion_pytorch_model.bin"
    torch.save(Trap(tmp_path / "sprung"), weights)
    with pytest.raises(OptionError, match="safetensors"):
        resolve_target(folder)
    assert not (tmp_path / "sprung").exists()
