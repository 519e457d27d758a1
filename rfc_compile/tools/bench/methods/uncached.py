"""The model without caching."""

from collections.abc import Mapping
from typing import Any, Final

from torch import nn

from rfc_compile.tools.bench.methods.base import Applied, Method, Mode, compiled
from rfc_compile.tools.bench.workloads import Workload, plain


def _apply(
    model: nn.Module, workload: Workload, setting: Mapping[str, Any], mode: Mode
) -> Applied:
    return Applied(plain(compiled(model, mode)))


METHODS: Final = (
    Method("uncached", _apply, sweep=({},), modes=("eager", "inductor"), rival=False),
)
