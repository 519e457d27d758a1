"""Options and values that are gone, and what to use in their place."""

from __future__ import annotations

from typing import Final

NAMES: Final = {
    "decide": "use per_sample=True in place of decide='sample'",
    "input_sketch": "leave it out; cache_dtype or granularity='stack' keeps less",
    "memory_budget": "leave it out; cache_dtype or granularity='stack' keeps less, and "
    "rfc_compile.explain tells how many bytes",
}
"""By the name of the option."""

VALUES: Final = {
    ("cache_dtype", "float8"): "use 'bfloat16', or granularity='stack' to keep less",
    ("estimator", "scaled_taylor"): "use 'taylor', or 'subspace' for modules",
}
"""By the name of the option and its value."""
