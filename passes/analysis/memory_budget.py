"""Regions whose state fits a number of bytes: merged as far as it takes, then dropped.

    blocks merged one by one, those with the fewest FLOPs saved per byte first
    runs of 2, 4, 8, ... blocks merged
    all blocks merged
    regions left out, those with the fewest FLOPs saved per byte first

The first choice that fits is taken: the further down, the less faithful the estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rfc_compile.errors import CannotCache
from rfc_compile.passes.analysis.block_grouping import blocks_of
from rfc_compile.passes.analysis.granularity import merge_runs
from rfc_compile.passes.analysis.records import Refusal, Region, Regions
from rfc_compile.passes.analysis.regions import numbered, without_cycles
from rfc_compile.passes.fx_utils import Ancestry

SizeOf = Callable[[Sequence[Region]], int]
"""Bytes of the state of one CFG branch with these regions."""


@dataclass(frozen=True)
class Choice:
    """Regions to cache, those left out, and what was done in words."""

    found: Sequence[Region]
    done: str
    dropped: Sequence[Region] = ()


def within_budget(
    regions: Regions,
    limit: int,
    merge_blocks: bool,
    ancestry: Ancestry,
    size_of: SizeOf,
) -> tuple[Regions, str]:
    """The regions of the first choice that fits, and what was done to them.

    ``merge_blocks`` says whether a block may be of several regions yet. Unchanged, with
    an empty text, where they fit as they are.

    Raises:
        CannotCache: nothing fits; tells the smallest possible size.

    """
    smallest = before = size_of(regions.found)
    if before <= limit:
        return regions, ""
    for choice in _choices(regions, merge_blocks, ancestry, size_of):
        size = size_of(choice.found)
        smallest = min(smallest, size)
        if size <= limit and _in_order(choice.found, ancestry):
            refusals = tuple(
                Refusal(region.module, "memory_budget: it runs at every step")
                for region in choice.dropped
            )
            found = sorted(choice.found, key=lambda r: ancestry.index[r.inputs[0]])
            fitting = replace(
                regions,
                found=tuple(numbered(found)),
                refused=(*regions.refused, *refusals),
            )
            return fitting, f"{before} bytes became {size}: {choice.done}"
    raise CannotCache(
        f"memory_budget: {limit} bytes are too few, the state of one CFG branch takes "
        f"{smallest} or more"
    )


def _choices(
    regions: Regions, merge_blocks: bool, ancestry: Ancestry, size_of: SizeOf
) -> Iterator[Choice]:
    blocks = blocks_of(regions.found)
    count = len(blocks)

    def merged(runs: Sequence[Sequence[Sequence[Region]]]) -> list[Region]:
        return merge_runs(runs, regions.found, ancestry)[0]

    if merge_blocks:
        left = list(blocks)
        order = sorted(range(count), key=lambda i: _worth(blocks[i], size_of))
        for number, i in enumerate(order, 1):
            left[i] = merged([[blocks[i]]])
            found = [region for block in left for region in block]
            yield Choice(found, f"{number} of {count} blocks merged")
    found = list(regions.found)
    length = 2
    while count > 1:
        runs = [blocks[i : i + length] for i in range(0, count, length)]
        longer = merged(runs)
        found = longer if _in_order(longer, ancestry) else found
        yield Choice(longer, f"runs of {min(length, count)} blocks merged")
        if length >= count:
            break
        length *= 2
    kept = sorted(found, key=lambda region: _worth([region], size_of))
    for number in range(1, len(kept)):
        dropped, staying = kept[:number], set(kept[number:])
        rest = [region for region in found if region in staying]
        yield Choice(rest, f"blocks merged, {number} of {len(kept)} left out", dropped)


def _worth(found: Sequence[Region], size_of: SizeOf) -> float:
    """FLOPs saved per byte of state."""
    return sum(region.flops for region in found) / max(1, size_of(found))


def _in_order(found: Sequence[Region], ancestry: Ancestry) -> bool:
    """Whether no region runs both before and after another."""
    return len(without_cycles(found, ancestry, [])) == len(found)
