"""Reuse the last output: FORA's rule, ``O_hat = O_0``."""

from __future__ import annotations

from rfc_compile.estimators.taylor import Taylor


class Reuse(Taylor):
    """Extrapolation of order 0: one kept output, no kept input."""

    name = "reuse"
    orders = (0,)
