"""Which inputs of a forward have a row per sample, for a batch of any size.

    latent (s0, 4, 8, 8)   timestep (s0,)   text (s0, 77, 32)   positions (64, 3)   s0
    row per sample         row per sample   row per sample      for all alike       size

Analysis only. The batch is the leading dimension of the latents. Its size must be a
symbol that stands nowhere but in leading dimensions: then the graphs of the forward run
for any part of a batch. A graph for a batch of 1 needs no rows. Whether
samples are independent is tested at run time (runtime.per_sample.independence).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from rfc_compile.errors import CannotCache
from rfc_compile.passes.analysis.input_roles import ForwardInputs, name_the_timestep
from rfc_compile.passes.analysis.records import Regions
from rfc_compile.passes.fx_utils import Ancestry, results_of, tensor_of
from rfc_compile.torch_internals import size_expression

_WANTED = "per_sample=True needs a batch whose size may change, and"


@dataclass(frozen=True)
class Batch:
    """Which inputs of a forward hold the samples of a batch.

    Attributes:
        size: the symbol of its size, or 1 where the graph is for one sample alone.
        rows: positions of the inputs with a row per sample; none for one alone.
        sizes: positions of the inputs that are the size.
        indexed: whether integers (which may be indices) depend on the latents.
    """

    size: Any
    rows: tuple[int, ...]
    sizes: tuple[int, ...]
    latents: tuple[int, ...]
    conditioning: tuple[int, ...]
    indexed: bool

    def check(self) -> None:
        """Compiling the graphs may have fixed the size.

        Raises:
            CannotCache: it has.
        """
        if self.rows:
            _symbol(self.size)


def find_batch(gm: fx.GraphModule, inputs: ForwardInputs, regions: Regions) -> Batch:
    """The batch of a functional forward.

    Raises:
        CannotCache: its samples cannot be run one without the others.
    """
    if inputs.timestep is None:
        raise CannotCache(
            "per_sample=True needs the timestep, which is not found in this graph: "
            + (name_the_timestep(inputs) or "compile the whole model")
        )
    placeholders = gm.graph.find_nodes(op="placeholder")
    latents = tuple(placeholders.index(node) for node in inputs.latents)
    size: Any = inputs.latents[0].meta["val"].shape[0]
    symbol = 1 if isinstance(size, int) and size == 1 else _symbol(size)
    rows, sizes = [], []
    for i, (node, name) in enumerate(zip(placeholders, inputs.names, strict=True)):
        value = node.meta["val"]
        if symbol == 1:
            continue
        if isinstance(value, torch.SymInt) and size_expression(value) == symbol:
            sizes.append(i)
        elif _has_rows(value, symbol, f"the input {name}"):
            rows.append(i)
    _check_kept(regions, symbol)
    if symbol != 1:
        _check_results(gm, symbol, [placeholders[i] for i in latents], rows)
    return Batch(
        size,
        tuple(rows),
        tuple(sizes),
        latents,
        inputs.conditioning_indices,
        _indexed(gm, inputs),
    )


def _symbol(size: Any) -> Any:
    expression = size_expression(size) if isinstance(size, torch.SymInt) else size
    if isinstance(expression, int) or not expression.is_symbol:
        raise CannotCache(
            f"{_WANTED} this graph is for a batch of {expression} alone: compile with "
            "dynamic=True, or where another size was the same, mark the batch of every "
            "input by torch._dynamo.mark_dynamic(input, 0) before the first call"
        )
    return expression


def _has_rows(value: Any, symbol: Any, what: str) -> bool:
    """Whether a value has a row per sample; refuses what is neither that nor shared."""
    if not isinstance(value, torch.Tensor):
        if isinstance(value, torch.SymInt) and _reads([value], symbol):
            raise CannotCache(f"{_WANTED} {what} is computed from it")
        return False
    leading: Sequence[Any] = value.shape[:1]
    has_rows = _reads(leading, symbol)
    if has_rows and size_expression(leading[0]) != symbol:
        raise CannotCache(f"{_WANTED} {what} has {leading[0]} rows for {symbol}")
    if _reads([*value.shape[1:], *value.stride()[1:]], symbol):
        raise CannotCache(
            f"{_WANTED} {what} has it behind its first dimension, or another size that "
            f"was the same: {tuple(value.shape)}. In the latter case mark the batch of "
            "every input by torch._dynamo.mark_dynamic(input, 0)"
        )
    return has_rows


def _reads(sizes: Iterable[Any], symbol: Any) -> bool:
    symbolic = [size for size in sizes if not isinstance(size, int)]
    return any(symbol in size_expression(size).free_symbols for size in symbolic)


def _check_kept(regions: Regions, symbol: Any) -> None:
    """What is kept of a sample must be its row."""
    for region in regions.found:
        for node in (*region.inputs, *region.outputs):
            value = tensor_of(node)
            assert value is not None, "regions read and give tensors"
            size: Any = value.shape[0]
            if (size if isinstance(size, int) else size_expression(size)) != symbol:
                raise CannotCache(
                    f"{_WANTED} {region.name} works on {size} rows for a batch of "
                    f"{symbol}: what belongs to a sample is not known"
                )


def _check_results(
    gm: fx.GraphModule, symbol: Any, latents: list[fx.Node], rows: list[int]
) -> None:
    if any(size_expression(x.meta["val"].shape[0]) != symbol for x in latents):
        raise CannotCache(f"{_WANTED} its latents have different numbers of rows")
    for result in results_of(gm.graph):
        if isinstance(result, fx.Node) and not _has_rows(
            result.meta["val"], symbol, f"the result {result.name}"
        ):
            raise CannotCache(
                f"{_WANTED} the result {result.name} is one for all samples"
            )


def _indexed(gm: fx.GraphModule, inputs: ForwardInputs) -> bool:
    ancestry = Ancestry(gm.graph)
    latents = ancestry.bits(inputs.latents)
    return any(
        value is not None
        and not value.is_floating_point()
        and value.dtype != torch.bool
        and bool(ancestry.masks[node] & latents)
        for node, value in ((node, tensor_of(node)) for node in ancestry.nodes)
    )
