"""Folders of the checkout that tests read."""

from __future__ import annotations

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
"""On the path of pytest, and of the processes that tests start."""

ROOT = SUPPORT.parent.parent
