"""Options and values that are gone, and what to use in their place."""

from __future__ import annotations

from typing import Final

NAMES: Final = {
    "decide": "use per_sample=True in place of decide='sample'",
    "decision": "leave it out; no step waits for an error unless schedule='rcs'",
    "input_sketch": "leave it out; cache_dtype or granularity='stack' keeps less",
    "max_error": "use schedule='rcs' with threshold, or tolerance",
    "memory_budget": "leave it out; cache_dtype or granularity='stack' keeps less, and "
    "rfc_compile.explain tells how many bytes",
}
"""By the name of the option."""

VALUES: Final = {
    ("max_cached_run", "auto"): "leave it out, or give a number of steps",
    ("schedule", "budget"): "give target_nfc or target_speedup",
    ("schedule", "spread"): "use 'error_control' (the default) or 'even'",
    ("time", "noise"): "use 'timestep'",
    ("cache_dtype", "float8"): "use 'bfloat16', or granularity='stack' to keep less",
    ("estimator", "scaled_taylor"): "use 'taylor', or 'subspace' for modules",
}
"""By the name of the option and its value."""
