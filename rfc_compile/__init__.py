"""rfc_compile: a torch.compile backend that makes diffusion transformers faster.

    model = torch.compile(model, backend="rfc")

``Options`` lists what can be set, ``explain`` and ``stats`` show what was done,
``reset`` drops the cached state and ``trajectory`` names a denoising run where that is
needed. ``tune`` searches for
options, ``load`` reads those that were found.
"""

from rfc_compile.config import Options
from rfc_compile.errors import (
    BudgetWarning,
    FingerprintWarning,
    GoalError,
    OptionError,
    RanksError,
    TargetError,
    TunedFileError,
    UncachedWarning,
)
from rfc_compile.explanation import Explanation, Statistics
from rfc_compile.observe import explain, reset, stats
from rfc_compile.runs import trajectory
from rfc_compile.tuned import Tuned, load
from rfc_compile.tuning import tune

__version__ = "0.1.0"

__all__ = [
    "BudgetWarning",
    "Explanation",
    "FingerprintWarning",
    "GoalError",
    "OptionError",
    "Options",
    "RanksError",
    "Statistics",
    "TargetError",
    "Tuned",
    "TunedFileError",
    "UncachedWarning",
    "explain",
    "load",
    "reset",
    "stats",
    "trajectory",
    "tune",
]
