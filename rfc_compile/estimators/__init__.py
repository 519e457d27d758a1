"""The estimators. A new one is one file and one line in ``ESTIMATORS``."""

from __future__ import annotations

from rfc_compile.estimators.base import Estimator
from rfc_compile.estimators.reuse import Reuse
from rfc_compile.estimators.rfe import RelationalFeatureEstimation
from rfc_compile.estimators.subspace import Subspace
from rfc_compile.estimators.taylor import Taylor

ESTIMATORS: dict[str, type[Estimator]] = {
    estimator.name: estimator
    for estimator in (
        Subspace,
        RelationalFeatureEstimation,
        Taylor,
        Reuse,
    )
}
