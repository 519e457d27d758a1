"""The methods. A new one is one file and one line in `METHODS`."""

from typing import Final

from rfc_compile.tools.bench.methods import (
    cache_dit,
    diffusers_hooks,
    reference,
    rfc,
    spectrum,
    uncached,
)
from rfc_compile.tools.bench.methods.base import Method

METHODS: Final[dict[str, Method]] = {
    method.name: method
    for file in (uncached, rfc, reference, spectrum, diffusers_hooks, cache_dit)
    for method in file.METHODS
}
