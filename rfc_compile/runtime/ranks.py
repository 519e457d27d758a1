"""Ranks that share one computation of a model take the same branch.

    rank 0   probe -> place, error, change, fingerprints -+
                                                          +- all_gather -> one signal
    rank 1   probe -> place, error, change, fingerprints -+

A graph with collectives in it (tensor, context or sequence parallel) must run in full
on all of its ranks or on none, or they deadlock. So the ranks meet
after every probe, in one collective of a few numbers outside of the compiled graphs,
and all go on with the same signal: the largest error, the largest change of the latent,
not finite if any is not, the sum of the fingerprints. A static schedule is probed there
too: NaN, another prompt or other weights on one rank concern all.

Whatever else a decision depends on (step, history, changed weights) is the same on all
ranks as long as they make the same calls. ``place`` stands for it: where that differs,
as after a reset of one rank, all see it and begin a new run.

Ranks that share no computation have no group and decide by themselves: data
parallel ones, guidance branches on ranks of their own, and those of FSDP, which gathers
weights around the graphs.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, fx, nn

from rfc_compile.config.options import Options
from rfc_compile.errors import CannotCache, RanksError
from rfc_compile.estimators.step_signal import Signal
from rfc_compile.graph_report import GraphReport
from rfc_compile.passes.rewrites.specialize import Specialized
from rfc_compile.torch_internals import collectives, group_of_name

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_CODES = 1 << 24
"""Whole numbers up to this one are exact in float32, which is what ranks exchange."""


class OutOfStep(RanksError):
    """The ranks disagree about the step of a call; every rank raises it."""


class Ranks:
    """The ranks that meet before every decision of one graph.

    ``groups`` cover them together, one for each dimension of their mesh. ``structure``
    is what their graphs must have in common.
    """

    def __init__(self, groups: Sequence[ProcessGroup], structure: object) -> None:
        self.groups = groups
        self._structure = _code(structure)

    @property
    def count(self) -> int:
        """The number of ranks."""
        return math.prod(distributed.get_world_size(group) for group in self.groups)

    def include(self, others: Ranks) -> bool:
        """Whether a decision of these ranks holds for the others, too."""
        return all(_covered(group, self.groups) for group in others.groups)

    def agree(
        self, place: Hashable, signal: Tensor, conditioning: int, timestep: float
    ) -> Signal:
        """The signal of all ranks; the only wait of a step.

        ``place`` is where this rank takes the call to be; ``signal`` its own, with so
        many fingerprints of conditioning inputs at the end; ``timestep`` its value.

        Raises:
            OutOfStep: the ranks disagree about the step.
            RanksError: a rank is missing, or has another graph.
        """
        errors = len(signal) - conditioning - 1
        numbers = [self._structure, _code(place), timestep]
        with torch.inference_mode(mode=False):
            message = torch.cat(
                [
                    torch.tensor(numbers, dtype=torch.float32, device=signal.device),
                    signal[:errors].amax().reshape(1),
                    signal[errors:],
                ]
            )
            rows = self._gather(message).tolist()
        structures, places, *values = zip(*rows, strict=True)  # of every rank
        if len(set(structures)) > 1:
            raise RanksError(
                f"the {self.count} ranks that share this model have different graphs: "
                "give all of them the same model, options and inputs of the same form "
                "(with shards of unequal size, leave out target_speedup)"
            )
        if len(set(places)) > 1:
            raise OutOfStep(
                f"the {self.count} ranks that share this model disagree about the step "
                "of a call, even in a new run: make the same calls on all of them"
            )
        _, error, change, *fingerprints = values
        return Signal(
            errors=(max(error),),
            change=max(change),
            conditioning=tuple(map(sum, fingerprints)),
            finite=all(map(math.isfinite, itertools.chain(*values))),
        )

    def _gather(self, message: Tensor) -> Tensor:
        """The messages of all ranks, one a row, in the same order everywhere."""
        rows = message[None]
        for group in self.groups:
            size = distributed.get_world_size(group)
            gathered = rows.new_empty(size * len(rows), len(message))
            try:
                distributed.all_gather(list(gathered.chunk(size)), rows, group=group)
            except RuntimeError as error:
                raise RanksError(
                    f"rank {distributed.get_rank()} did not hear from the "
                    f"{self.count} ranks that share this model: one of them has "
                    "raised, has ended, makes other calls or runs uncached; see its "
                    "output, and rfc_compile.explain(model) there "
                    f"({str(error).splitlines()[0]})"
                ) from error
            rows = gathered
        return rows


def may_follow(own: Ranks | None, leading: Ranks | None, report: GraphReport) -> bool:
    """Whether a graph may follow a decision: one of all its own ranks."""
    if own is None or (leading is not None and leading.include(own)):
        return True
    report.fall_back(
        "this graph has collectives, but the graph that decides for it does not know "
        "their ranks, so it runs in full: pass the option process_group"
    )
    return False


def find_groups(
    gm: fx.GraphModule, inputs: Iterable[Any], given: ProcessGroup | None
) -> list[ProcessGroup]:
    """The groups of ranks that share a computation; none if it is this rank's own.

    ``gm`` is the functional graph: the groups of its collectives count, and the meshes
    of the sharded tensors among Dynamo's ``inputs``; ``given`` is the user's.

    Raises:
        CannotCache: a collective does not tell its group.
    """
    found = [] if given is None else [given]
    if distributed.is_available() and distributed.is_initialized():
        found += [*_groups_of_collectives(gm), *_groups_of_meshes(inputs)]
    groups: list[ProcessGroup] = []
    largest_first = sorted(found, key=distributed.get_world_size, reverse=True)
    for group in largest_first:
        if distributed.get_world_size(group) > 1 and not _covered(group, groups):
            groups.append(group)
    return groups


def meeting(
    groups: Sequence[ProcessGroup],
    specialized: Specialized,
    options: Options,
    report: GraphReport,
) -> Ranks | None:
    """The ranks of these groups, None without any.

    Their graphs must have the same collectives, and the same share of the FLOPs inside
    regions where that decides.
    """
    if not groups:
        return None
    exchanged = [
        [name for name, _ in collectives(graph.gm)]
        for graph in specialized.graphs.values()
    ]
    share = report.coverage if options.target_speedup is not None else None
    ranks = Ranks(groups, (exchanged, share))
    report.note(f"the {ranks.count} ranks that share the computation decide together")
    return ranks


def gathers_weights(model: nn.Module) -> bool:
    """Whether FSDP gathers weights of a model, or of its parts, for each call."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in model.modules())


def _groups_of_collectives(gm: fx.GraphModule) -> list[ProcessGroup]:
    names = [name for _, name in collectives(gm)]
    if not all(isinstance(name, str) for name in names):
        raise CannotCache("a collective does not tell its process group by a name")
    return [group_of_name(name) for name in dict.fromkeys(names)]


def _groups_of_meshes(inputs: Iterable[Any]) -> list[ProcessGroup]:
    from torch.distributed.tensor import DTensor

    sharded = (value for value in inputs if isinstance(value, DTensor))
    meshes = dict.fromkeys(value.device_mesh for value in sharded)
    return [group for mesh in meshes for group in mesh.get_all_groups()]


def _covered(group: ProcessGroup, by: Iterable[ProcessGroup]) -> bool:
    ranks = set(distributed.get_process_group_ranks(group))
    return any(ranks <= set(distributed.get_process_group_ranks(other)) for other in by)


def _code(value: object) -> int:
    """A number below 2^24 that is, in every process, the same for the same value."""
    return zlib.crc32(repr(value).encode()) % _CODES
