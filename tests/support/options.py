"""Options of tests that are about regions, which the defaults merge into stacks."""

from __future__ import annotations

MODULES = {"granularity": "module", "corrector": "off"}
"""Every attention and MLP is a region of its own; ``subspace`` predicts them."""
