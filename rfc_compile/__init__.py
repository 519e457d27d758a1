"""rfc_compile: a torch.compile backend that makes diffusion transformers faster.

    model = torch.compile(model, backend="rfc")

``Options`` lists what can be set, ``explain`` and ``stats`` show what was done,
``reset`` drops the cached state and ``trajectory`` names a denoising run where that is
needed.
"""

from rfc_compile.config import Options
from rfc_compile.errors import BudgetWarning, OptionError, UncachedWarning
from rfc_compile.explanation import Explanation, Statistics
from rfc_compile.observe import explain, reset, stats
from rfc_compile.runs import trajectory

__version__ = "0.1.0"

__all__ = [
    "BudgetWarning",
    "Explanation",
    "OptionError",
    "Options",
    "Statistics",
    "UncachedWarning",
    "explain",
    "reset",
    "stats",
    "trajectory",
]
