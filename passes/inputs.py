"""What the inputs of a forward are: parameters, latent and text, timestep, the rest.

Analysis only, from Dynamo's metadata and the graph; the names of the inputs only
decide between candidates that the graph cannot tell apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from rfc_compile.errors import CannotCache
from rfc_compile.passes.graph import Ancestry, aten, packet, tensor_of

_TIMESTEP_NAMES = (
    r"time_?steps?",
    r"t",
    r".*time_?steps?.*",
    r".*(sigma|noise|time).*",
)


@dataclass(frozen=True)
class ForwardInputs:
    """The placeholders of a forward by their role.

    Attributes:
        names: the user's name of every placeholder, in order.
        static: parameters, buffers and numbers that belong to modules.
        timestep: tells denoising steps apart.
        sources: floating point tensors of 3 or more dimensions: latent and text.
        latents: the sources shaped like an output of the model.
        conditioning: every other tensor that a call passes.
        conditioning_names: their names, in the user's words.
        timestep_index: position of the timestep among the placeholders.
        static_indices: positions of the parameters and buffers.

    """

    names: tuple[str, ...]
    static: frozenset[fx.Node]
    timestep: fx.Node
    sources: frozenset[fx.Node]
    latents: tuple[fx.Node, ...]
    conditioning: tuple[fx.Node, ...]
    conditioning_names: tuple[str, ...]
    timestep_index: int
    static_indices: tuple[int, ...]


def classify_inputs(
    gm: fx.GraphModule,
    ancestry: Ancestry,
    source_of: Callable[[fx.Node], str],
    is_static: Callable[[fx.Node], bool],
    timestep: str | None,
) -> ForwardInputs:
    """Find every input's role; ``timestep`` names that input where it is not None.

    Raises:
        CannotCache: no timestep input, more than one candidate, or no latent.

    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    names = {node: _user_name(source_of(node)) for node in placeholders}
    static = frozenset(
        node
        for node in placeholders
        if is_static(node) or not _is_argument(source_of(node))
    )
    given = [node for node in placeholders if node not in static]
    step = _timestep(given, names, ancestry, timestep)
    sources = [node for node in given if node is not step and _is_feature(node)]
    if not sources:
        raise CannotCache(
            "no latent input: no floating point tensor of 3 or more dimensions"
        )
    results = [tensor_of(node) for node in gm.graph.output_node().all_input_nodes]
    latents = [
        node
        for node in sources
        if any(_alike(node.meta["val"], result) for result in results)
    ] or sources
    conditioning = tuple(
        node
        for node in given
        if node is not step and node not in latents and _is_data(node)
    )
    return ForwardInputs(
        names=tuple(names.values()),
        static=static,
        timestep=step,
        sources=frozenset(sources),
        latents=tuple(latents),
        conditioning=conditioning,
        conditioning_names=tuple(names[node] for node in conditioning),
        timestep_index=placeholders.index(step),
        static_indices=tuple(
            i for i, node in enumerate(placeholders) if is_static(node)
        ),
    )


def _timestep(
    given: Sequence[fx.Node],
    names: dict[fx.Node, str],
    ancestry: Ancestry,
    wanted: str | None,
) -> fx.Node:
    if wanted is not None:
        for node in given:
            if names[node] == wanted:
                return node
        known = ", ".join(sorted({names[node] for node in given}))
        raise CannotCache(f"no input is named timestep={wanted!r}; inputs are: {known}")
    waves = ancestry.bits(
        node
        for node in ancestry.nodes
        if node.op == "call_function" and packet(node) in (aten.sin, aten.cos)
    )
    small = [node for node in given if _is_per_sample(node)]
    feeding = [
        node
        for node in small
        if any(
            ancestry.depends(wave, node)
            for wave in ancestry.nodes
            if waves >> ancestry.index[wave] & 1
        )
    ]
    for candidates in (feeding, small):
        for pattern in _TIMESTEP_NAMES:
            named = [n for n in candidates if re.fullmatch(pattern, names[n].lower())]
            if len(named) == 1:
                return named[0]
    if len(feeding) == 1:
        return feeding[0]
    which = ", ".join(names[node] for node in feeding)
    raise CannotCache(
        (f"several inputs could be the timestep ({which})" if which else "no timestep")
        + ": name it with options={'timestep': ...}"
    )


def _is_argument(source: str) -> bool:
    """Whether a source is passed to the call rather than read from a module."""
    return not re.match(r"^(L\['self'\]|G\[)", source)


def _user_name(source: str) -> str:
    """``timestep`` for ``L['timestep']`` and for ``L['kwargs']['timestep']``."""
    quoted = re.findall(r"\['([^']+)'\]", source)
    return quoted[-1] if quoted else source


def _is_per_sample(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return value.ndim <= 1 and value.dtype is not torch.bool
    return isinstance(value, int | float | torch.SymInt | torch.SymFloat)


def _is_feature(node: fx.Node) -> bool:
    value = tensor_of(node)
    return value is not None and value.ndim >= 3 and value.is_floating_point()


def _is_data(node: fx.Node) -> bool:
    value = tensor_of(node)
    return value is not None and not value.is_complex()


def _alike(a: torch.Tensor, b: torch.Tensor | None) -> bool:
    """Same rank and at most one size that differs (the channels)."""
    if b is None or a.ndim != b.ndim:
        return False
    sizes = zip(a.shape, b.shape, strict=True)
    return sum(not statically_known_true(m == n) for m, n in sizes) <= 1
