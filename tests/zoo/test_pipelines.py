"""Real pipelines, compiled with the one line that a user adds.

Guidance, solvers, given images: whose step a call is, however a pipeline calls.
"""

from __future__ import annotations

import pytest
from marks import PIPELINES, cases
from pipelines import ALL, checks, guidance


@pytest.mark.parametrize("name", cases(ALL, PIPELINES, pytest.mark.nightly))
def test_a_pipeline(name: str) -> None:
    checks.check(ALL[name])


@pytest.mark.parametrize("name", cases(guidance.ALL, PIPELINES, pytest.mark.nightly))
def test_guidance(name: str) -> None:
    checks.check(guidance.ALL[name])
