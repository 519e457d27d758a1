"""rfc_compile: a torch.compile backend that makes diffusion transformers faster.

    model = torch.compile(model, backend="rfc")

``Options`` lists what can be set, ``explain`` and ``stats`` show what was done,
``reset`` drops the cached state, ``trajectory`` names a denoising run where that is
needed and ``rows`` the rows of a server's batch. ``tune`` searches for options,
``load`` reads those that were found.
"""

from rfc_compile.config.options import Options
from rfc_compile.config.run_options import Row
from rfc_compile.config.tuned_file import Tuned, load
from rfc_compile.errors import (
    BudgetWarning,
    FingerprintWarning,
    OptionError,
    RanksError,
    TargetError,
    TunedFileError,
    UncachedWarning,
)
from rfc_compile.report.explain import Explanation, explain
from rfc_compile.report.statistics import Statistics, stats
from rfc_compile.runtime.registry import reset
from rfc_compile.runtime.run_boundaries import rows, trajectory
from rfc_compile.tools.tuning import tune
from rfc_compile.tools.tuning.goal import GoalError
from rfc_compile.version import __version__ as __version__

__all__ = [
    "BudgetWarning",
    "Explanation",
    "FingerprintWarning",
    "GoalError",
    "OptionError",
    "Options",
    "RanksError",
    "Row",
    "Statistics",
    "TargetError",
    "Tuned",
    "TunedFileError",
    "UncachedWarning",
    "explain",
    "load",
    "reset",
    "rows",
    "stats",
    "trajectory",
    "tune",
]
