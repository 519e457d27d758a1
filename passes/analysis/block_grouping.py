"""Which regions belong to one block: by the modules that hold them.

    transformer_blocks.3.attn1   transformer_blocks.3.ff     entry 3 of a list
    refiner.attn                 refiner.mlp                 one module
    attn_0  mlp_0  attn_1  mlp_1                             regular repetition

No names are looked for: an entry of a list is a block, without one the module around
the regions is; where the regions of such a module repeat, each time is one block.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from rfc_compile.passes.analysis.records import Region


def blocks_of(regions: Sequence[Region]) -> list[list[Region]]:
    """The regions, in their order, in groups that are a block each."""
    held = Counter(entry for region in regions for entry in _entries(region.module))
    blocks = []
    for (entry, _), group in groupby(regions, lambda region: _home(region, held)):
        members = list(group)
        blocks += [members] if entry else _repetitions(members)
    return blocks


def _entries(path: str) -> list[str]:
    """The entries of lists that a path goes through, outermost first."""
    return [path[: found.end()] for found in re.finditer(r"\.\d+(?=\.|$)", path)]


def _home(region: Region, held: Counter[str]) -> tuple[str, str]:
    """The innermost entry of a list with several regions, and the module around it."""
    entries = _entries(region.module)
    shared = [entry for entry in entries if held[entry] > 1]
    if entries:
        return (shared or entries)[-1], ""
    return "", region.module.rpartition(".")[0]


def _repetitions(members: list[Region]) -> list[list[Region]]:
    """The shortest parts that the members repeat, or all of them as one."""
    looks = [(r.kind, len(r.inputs), len(r.outputs), r.flops) for r in members]
    for length in range(1, len(members) // 2 + 1):
        repeated = looks[:length] * (len(members) // length)
        if looks == repeated:
            starts = range(0, len(members), length)
            return [members[i : i + length] for i in starts]
    return [members]
