"""Shared fixtures: a clean compiler before every test, one compile cache for all."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rfc_compile

os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR",
    str(Path(__file__).resolve().parent.parent / ".cache" / "inductor"),
)


def pytest_collection_finish() -> None:
    """Collect garbage seldom: by Python's thresholds it takes a fifth of tracing."""
    gc.collect()
    gc.freeze()  # what is imported by now stays
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True)
def clean_compiler() -> Iterator[None]:
    """No compiled code, cached state or counters from an earlier test."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    rfc_compile.reset()
    yield
    torch._dynamo.reset()
