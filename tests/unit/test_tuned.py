"""The file of tuned options: round trips, and whatever can be wrong with it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from denoising import small_glyph
from hypothesis import given, settings
from hypothesis import strategies as st

import rfc_compile
from rfc_compile import FingerprintWarning, OptionError, TunedFileError
from rfc_compile.config.fingerprint import Fingerprint, model_fingerprint
from rfc_compile.config.tuned_file import Measured, Tuned
from rfc_compile.io.json_files import LARGEST, MOST_BYTES
from rfc_compile.tools.measure import glyph_dit

MEASURED = Measured(
    nfc=12.5,
    steps=50,
    psnr=38.0,
    psnr_min=31.5,
    ssim=0.98,
    images=8,
    state_bytes=9 << 20,
    graph_breaks=0,
    recompiles=0,
    speedup=2.5,
)
FACTS = {"class": "Model", "parameters": 10, "num_layers": 12}
TUNED = Tuned(
    options={"threshold": 0.7, "granularity": "block", "max_cached_run": None},
    measured=MEASURED,
    fingerprint=Fingerprint(FACTS, "ddim", 50, "2.13.0", "0.1.0"),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rfc.json"
    TUNED.save(path)
    return path


def edited(file: Path, *place: str, value: Any) -> Path:
    """The file with one place of it changed."""
    record = json.loads(file.read_text())
    inside = record
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = value
    file.write_text(json.dumps(record))
    return file


def test_a_file_comes_back(file: Path) -> None:
    assert Tuned.read(file) == TUNED
    assert rfc_compile.load(file) == TUNED.options
    assert [path.name for path in file.parent.iterdir()] == ["rfc.json"]


def test_loaded_options_compile_a_model(file: Path) -> None:
    options = {**TUNED.options, "inner": "eager", "min_coverage": 0.0}
    edited(file, "options", value=options)
    compiled = torch.compile(
        small_glyph(), backend="rfc", options=rfc_compile.load(file)
    )
    glyph_dit.sample(compiled, labels=torch.tensor([3]), seed=0, steps=12)
    assert len(rfc_compile.explain(compiled).regions) == 2  # of 2 blocks
    assert rfc_compile.stats(compiled).nfc < 12


counts = st.integers(0, LARGEST - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
texts = st.text(max_size=8)
facts = st.dictionaries(
    texts,
    st.none() | texts | counts | numbers | st.lists(counts),
    max_size=4,
)
tuned_values = st.builds(
    Tuned,
    options=st.fixed_dictionaries(
        {},
        optional={
            "threshold": st.floats(0, 1e6),
            "estimator": st.sampled_from(["subspace", "rfe", "taylor"]),
            "full_steps": st.lists(st.integers(0, 99), max_size=5),
            "max_cached_run": st.none() | st.integers(0, 9),
        },
    ),
    measured=st.none()
    | st.builds(
        Measured,
        nfc=numbers,
        steps=counts,
        psnr=numbers,
        psnr_min=numbers,
        ssim=st.none() | numbers,
        images=counts,
        state_bytes=counts,
        graph_breaks=counts,
        recompiles=counts,
        seconds=st.none() | numbers,
        uncached_seconds=st.none() | numbers,
        speedup=st.none() | numbers,
    ),
    fingerprint=st.builds(
        Fingerprint,
        model=facts,
        sampler=st.none() | texts,
        steps=st.none() | counts,
        torch=st.none() | texts,
        rfc_compile=st.none() | texts,
    ),
)


@settings(max_examples=50, deadline=None)
@given(tuned=tuned_values)
def test_any_file_comes_back(tuned: Tuned, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    tuned.save(path)
    assert Tuned.read(path) == tuned


@settings(max_examples=100, deadline=None)
@given(
    start=st.integers(0, 800), length=st.integers(1, 60), filling=st.binary(max_size=9)
)
def test_a_damaged_file_is_refused_or_means_something(
    start: int, length: int, filling: bytes, tmp_path_factory: Any
) -> None:
    """Bytes are cut out and others put in: an error of one type, or valid options."""
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    TUNED.save(path)
    data = path.read_bytes()
    path.write_bytes(data[:start] + filling + data[start + length :])
    with contextlib.suppress(TunedFileError):
        rfc_compile.Options.from_mapping(rfc_compile.load(path))


WRONG = {
    "unknown": (("nonsense",), 1, "$.nonsense is not known; allowed: options"),
    "option": (("options", "treshold"), 0.1, "$.options.treshold is not known"),
    "value": (("options", "threshold"), -1, "$.options.threshold: threshold=-1"),
    "choice": (("options", "estimator"), "x", "$.options.estimator: estimator='x'"),
    "future": (("schema",), 2, "$.schema is 2, and this version of rfc_compile reads"),
    "schema": (("schema",), "1", "$.schema is '1'; allowed: 1"),
    "options": (("options",), [], "$.options is []; allowed: an object"),
    "measured": (("measured", "nfc"), "12", "$.measured.nfc is '12'; allowed: a num"),
    "whole": (("measured", "steps"), 1.5, "$.measured.steps is 1.5; allowed: a whole"),
    "none": (("measured", "psnr"), None, "$.measured.psnr is None; allowed: a number"),
    "model": (("fingerprint", "model"), 3, "$.fingerprint.model is 3; allowed: an ob"),
    "steps": (("fingerprint", "steps"), "50", "$.fingerprint.steps is '50'; allowed"),
}


@pytest.mark.parametrize(("place", "value", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_place_is_named(
    file: Path, place: tuple[str, ...], value: Any, message: str
) -> None:
    with pytest.raises(TunedFileError) as caught:
        rfc_compile.load(edited(file, *place, value=value))
    assert f"{file}: {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "must be an object"),
        (b'{"schema": 1}', "$.options is missing"),
        (b'{"schema": 1, "schema": 1}', "'schema' stands twice"),
        (b'{"schema": NaN}', "NaN is no number of JSON"),
        (b"\xff\xfe", "cannot be read"),
        (b" " * (MOST_BYTES + 1), f"it has more than {MOST_BYTES} bytes"),
    ],
)
def test_what_is_no_such_file_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "rfc.json"
    path.write_bytes(content)
    with pytest.raises(TunedFileError) as caught:
        rfc_compile.load(path)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        TunedFileError, match=r"none\.json: cannot be read: No such file"
    ):
        rfc_compile.load(tmp_path / "none.json")


def test_a_failed_save_leaves_the_old_file(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(TUNED, options={"threshold": float("nan")}).save(file)
    assert file.read_bytes() == before
    (file.parent / "folder").mkdir()
    with pytest.raises(OSError):
        TUNED.save(file.parent / "folder")
    names = sorted(path.name for path in file.parent.iterdir())
    assert names == ["folder", "rfc.json"]


def test_loading_needs_no_extra(file: Path) -> None:
    code = (
        f"import sys, rfc_compile; rfc_compile.load({str(file)!r})\n"
        "extras = {'diffusers', 'matplotlib', 'PIL', 'rich', 'torchmetrics'}\n"
        "print(sorted(extras & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert (result.returncode, result.stdout) == (0, "[]\n")


def test_another_model_is_named_by_its_fields(file: Path) -> None:
    model = glyph_dit.load_glyph_dit()
    own = replace(TUNED, fingerprint=Fingerprint(model_fingerprint(model), "ddim", 50))
    own.save(file)
    with pytest.warns(FingerprintWarning) as caught:
        assert rfc_compile.load(file, torch.nn.Linear(2, 3)) == TUNED.options
    text = str(caught[0].message)
    assert "model.class is 'Linear', tuned with 'DiTTransformer2DModel'" in text
    assert "model.parameters is 9, tuned with " in text
    assert caught[0].filename == __file__
    with pytest.raises(OptionError, match="a int is neither a model nor a pipeline"):
        rfc_compile.load(file, 3)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error::rfc_compile.FingerprintWarning")
def test_the_same_model_is_recognised_compiled_or_not(file: Path) -> None:
    model = glyph_dit.load_glyph_dit()
    own = replace(TUNED, fingerprint=Fingerprint(model_fingerprint(model), "ddim", 50))
    own.save(file)
    rfc_compile.load(file, model)
    rfc_compile.load(file, torch.compile(model, backend="rfc"))
    with torch.no_grad():
        model.proj_out_1.weight.mul_(2)  # another set of weights
    rfc_compile.load(file, model)


def test_a_compiled_model_with_other_shapes_is_noticed(file: Path) -> None:
    """Though `load` was given no model."""
    options = {**TUNED.options, "inner": "eager", "min_coverage": 0.0}
    model = small_glyph()
    facts = model_fingerprint(model)
    for shapes, foreign in ((facts["shapes"], 0), (["3x3"], 1)):
        print_of = Fingerprint({**facts, "shapes": shapes})
        replace(TUNED, options=options, fingerprint=print_of).save(file)
        torch.compiler.reset()
        compiled = torch.compile(model, backend="rfc", options=rfc_compile.load(file))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            glyph_dit.sample(compiled, labels=torch.tensor([3]), seed=0, steps=1)
        found = [w for w in caught if w.category is FingerprintWarning]
        assert len(found) == foreign
    assert "tuned with ['3x3']" in str(found[0].message)


def test_only_what_is_known_of_both_counts() -> None:
    known = TUNED.fingerprint
    assert known.differences(known) == []
    assert known.differences(Fingerprint(FACTS)) == []
    assert known.differences(replace(known, torch="9.9", rfc_compile="9")) == []
    assert known.differences(replace(known, sampler="euler", steps=20)) == [
        "sampler is 'euler', tuned with 'ddim'",
        "steps is 20, tuned with 50",
    ]
    deeper = replace(known, model={**FACTS, "num_layers": 24})
    assert known.differences(deeper) == ["model.num_layers is 24, tuned with 12"]
    assert asdict(known)["model"] == FACTS
