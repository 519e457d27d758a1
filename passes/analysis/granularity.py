"""Regions merged into larger ones: one per block, for the run of blocks, or for all.

    module   h - norm - [attn] - gate - add - norm - [mlp] - gate - add - h'
    block    h - norm - [attn    gate   add   norm    mlp    gate   add]- h'
    stack    h - norm - [attn ... the adds of the last block           ]- h'
    model    h - norm - [attn ... the adds of the last block, the head ]- result

A merged region holds all that lies between its members and what they alone need (the
modulation of later layers). Of outputs that are values of the stream, the difference to
the stream before the region is kept: a cached step is ``h' = h + estimate``.

A value in the middle that is read outside ends the merge there (a long skip, a value
that the forward returns), unless all such values flow into one (a sum of skips), which
is then the output of the stack; ``Regions.merge_refusals`` tells why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from rfc_compile.passes.analysis.block_grouping import blocks_of
from rfc_compile.passes.analysis.merged_region import (
    CannotMerge,
    joined_region,
    merged_region,
)
from rfc_compile.passes.analysis.model_region import model_region
from rfc_compile.passes.analysis.records import Region, Regions
from rfc_compile.passes.analysis.regions import numbered, without_cycles
from rfc_compile.passes.fx_utils import Ancestry


def merge_regions(
    regions: Regions, granularity: str, watched: fx.Node, ancestry: Ancestry
) -> Regions:
    """Merge the regions of every block, or all of them (analysis only).

    ``granularity`` is ``module`` (they stay as they are), ``block``, ``stack`` or
    ``model``; ``watched`` is the value that the decision looks at.
    """
    if granularity == "module" or not regions.found:
        return regions
    if granularity == "model":
        try:
            whole = model_region(regions.found, watched, ancestry)
        except CannotMerge as refusal:
            stack = merge_regions(regions, "stack", watched, ancestry)
            return replace(stack, merge_refusals=(str(refusal), *stack.merge_refusals))
        return replace(regions, found=tuple(numbered([whole])))
    blocks = blocks_of(regions.found)
    runs = [blocks] if granularity == "stack" else [[block] for block in blocks]
    merging = _Merging(regions.found, ancestry)
    merged = [region for run in runs for region in merging.largest(run, "block")]
    why = merging.refusals
    if granularity == "stack" and merging.leaks and len(merged) > 1:
        joined = joined_region(regions.found, ancestry)
        if joined is not None:
            merged, why = [replace(joined, kind="stack", module=_label(blocks))], []
    refusals = dict.fromkeys(why)
    if len(without_cycles(merged, ancestry, [])) < len(merged):
        merged = list(regions.found)
        refusals = {
            "merged, two regions would each run before and after the other": None
        }
    merged.sort(key=lambda region: ancestry.index[region.inputs[0]])
    return replace(
        regions, found=tuple(numbered(merged)), merge_refusals=tuple(refusals)
    )


@dataclass
class _Merging:
    """Merges regions of one graph; ``refusals`` collects why some are not merged.

    ``leaks``: whether one reason is a value that is no stream and is read outside.
    """

    regions: Sequence[Region]
    ancestry: Ancestry
    refusals: list[str] = field(default_factory=list)
    leaks: bool = False

    def largest(self, units: Sequence[Sequence[Region]], kind: str) -> Iterator[Region]:
        """The largest runs of units that are one region each, in order.

        ``kind`` is that of a single unit, ``block`` or ``part`` of one.
        """
        start, end, cut = 0, len(units), ""
        while start < end:
            run = units[start:end]
            members = [region for unit in run for region in unit]
            if len(members) == 1 and (kind == "part" or members[0].bases):
                yield members[0]  # as it is, or merged already
                start, end = end, len(units)
                continue
            try:
                merged = merged_region(members, self.regions, self.ancestry)
            except CannotMerge as why:
                self.leaks |= why.leaks
                if len(run) > 1:  # the one to blame may be the last of a run
                    cut = str(why)  # what is said of a longer run does not count
                    blamed = members[why.last]
                    (unit,) = (i for i, unit in enumerate(run) if blamed in unit)
                    end = start + max(1, min(len(run) - 1, unit + 1))
                    continue
                self.refusals.append(str(why))
                yield from self.largest([[member] for member in members], "part")
            else:
                self.refusals += [cut] if cut else []
                name = kind if len(run) == 1 or kind == "part" else "stack"
                yield replace(merged, kind=name, module=_label(run))
            start, end, cut = end, len(units), ""


def _label(run: Sequence[Sequence[Region]]) -> str:
    """The module around a block, or those of the first and last block."""
    first, last = _around(run[0]), _around(run[-1])
    return first if len(run) == 1 else f"{first} .. {last}"


def _around(members: Sequence[Region]) -> str:
    paths = [member.module.split(".") for member in members]
    common = []
    for names in zip(*paths, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common) or f"{members[0].module} .. {members[-1].module}"
