"""The pytest plugin in a suite of a user's: passing, missed, and wrongly called."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

pytest_plugins = ["pytester"]

SUITE = """
import pytest
import torch
from rfc_compile import OptionError, glyph

@pytest.fixture(scope="session")
def target():
    model = glyph.load_glyph_dit()
    model.transformer_blocks = model.transformer_blocks[:1]
    def sample(model, seed):
        labels = torch.tensor([seed])
        return glyph.sample(model, labels=labels, seed=seed, steps=14, guidance=1.0)
    return model, sample

def test_refused(rfc_check, target):
    rfc_check(target, {"min_coverage": 1.0}, max_graph_breaks=0, seeds=1)

def test_good(rfc_check, target):
    found = rfc_check(target, min_psnr=10, max_graph_breaks=0, seeds=1)
    assert found.passed and found.measured.nfc < 14

def test_missed(rfc_check, target):
    rfc_check(target, {"estimator": "reuse"}, max_nfc=2, seeds=1)

def test_nothing_cached(rfc_check, target):
    rfc_check(target, {"warmup": 20}, min_psnr=10, seeds=1)

def test_unknown_limit(rfc_check, target):
    with pytest.raises(OptionError, match="did you mean 'min_psnr'"):
        rfc_check(target, min_psn=30)
"""


def test_the_fixture_fails_tests_whose_limits_are_missed(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest('pytest_plugins = ["rfc_compile.testing"]')
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_inprocess("--junitxml=out.xml")
    result.assert_outcomes(passed=2, failed=3)
    text = result.stdout.str()
    assert "missed: full steps (NFC): " in text
    assert "at most 2 wanted" in text
    assert "missed: cached steps: nothing was cached: this forward runs" in text
    assert "nothing was cached: every step was computed in full" in text
    assert "Traceback" not in text
    good = next(
        case
        for case in ET.parse(pytester.path / "out.xml").getroot().iter("testcase")
        if case.attrib["name"] == "test_good"
    )
    properties = {x.attrib["name"]: x.attrib["value"] for x in good.iter("property")}
    assert set(properties) == {
        "rfc_cached",
        "rfc_finite",
        "rfc_min_psnr",
        "rfc_max_graph_breaks",
    }
    assert properties["rfc_min_psnr"].endswith(" dB")
