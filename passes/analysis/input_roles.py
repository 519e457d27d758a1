"""What the inputs of a forward are: parameters, latent and text, timestep, the rest.

    forward(hidden_states, timestep, encoder_hidden_states, pooled, guidance)
            latent         timestep  source                 conditioning

Analysis only, from Dynamo's metadata and the graph; names are used only
to choose between candidates that are equal in the graph.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from rfc_compile.errors import NothingToCache
from rfc_compile.passes.analysis.flops import (
    is_attention,
    is_expensive,
    is_matmul_of_activations,
)
from rfc_compile.passes.analysis.input_names import last_word, user_name, user_names
from rfc_compile.passes.analysis.residual_stream import ResidualAdd
from rfc_compile.passes.analysis.timestep_input import (
    find_timestep,
    moving_along,
    possible_timesteps,
)
from rfc_compile.passes.fx_utils import Ancestry, tensor_of
from rfc_compile.torch_internals import size_hint

_TEXT_NAMES = r"encoder|context|text|txt|prompt|cap_|caption|cond|mask"

_LATENT_NAMES = r"x|z|x_t|(noisy_?)?(hidden_states|latents?|samples?|image|img|video)"
"""How the latent is called among inputs of its shape."""

_ENTRY = re.compile(r"\['(?!args'|___)[^']+'\]\[\d+\]$")
"""Source of an entry of a list that the caller passes (``L['x'][0]``)."""

_PARAMETER_OR_BUFFER = re.compile(r"\._(parameters|buffers)\['[^']+'\]$")
"""Source of a parameter or buffer."""


@dataclass(frozen=True)
class ForwardInputs:
    """The placeholders of a forward by their role.

    Attributes:
        names: the user's name of every placeholder, in order.
        static: parameters, buffers and numbers that belong to modules.
        timestep: identifies the denoising step; None if it is not an input.
        sources: latent and text: floating point tensors of 3 or more dimensions,
            projected entries of a list (one per sample), vectors that are latents.
        latents: the sources shaped like an output of the model.
        conditioning: every other tensor that a call passes, but for further times, and
            the latents that may be references of a latent's shape.
        conditioning_names: their names, in the user's words.
        conditioning_indices: their positions among the placeholders.
        timestep_index: position of the timestep among the placeholders.
        static_indices: positions of the tensors that belong to modules.
        attribute_indices: of those that are neither parameters nor buffers.
        number_indices: positions of the numbers in the call, sizes of tensors left out.
        maybe_timestep: names of the inputs that could be it where none is found.
    """

    names: tuple[str, ...]
    static: frozenset[fx.Node]
    timestep: fx.Node | None
    sources: frozenset[fx.Node]
    latents: tuple[fx.Node, ...]
    conditioning: tuple[fx.Node, ...]
    conditioning_names: tuple[str, ...]
    conditioning_indices: tuple[int, ...]
    timestep_index: int | None
    static_indices: tuple[int, ...]
    attribute_indices: tuple[int, ...]
    number_indices: tuple[int, ...]
    maybe_timestep: tuple[str, ...]


def classify_inputs(
    gm: fx.GraphModule,
    ancestry: Ancestry,
    source_of: Callable[[fx.Node], str],
    is_static: Callable[[fx.Node], bool],
    timestep: str | None,
) -> ForwardInputs:
    """Find every input's role; ``timestep`` names that input where it is not None.

    Raises:
        CannotCache: more than one candidate for the timestep.
        OptionError: the name of the timestep fits several inputs.
        NothingToCache: no latent.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    names = user_names({node: source_of(node) for node in placeholders})
    static = frozenset(
        node
        for node in placeholders
        if is_static(node) or not _is_argument(source_of(node))
    )
    given = [
        node
        for node in placeholders
        if node not in static and not _is_size(source_of(node))
    ]
    step = find_timestep(given, names, ancestry, timestep)
    times = {step, *moving_along(given, names, ancestry)}
    features = [node for node in given if node not in times and _is_feature(node)]
    projected = _read_by_a_linear(ancestry, static)
    sources = [
        node
        for node in features
        if node.meta["val"].ndim >= 3
        or (node in projected and _ENTRY.search(source_of(node)))
    ]
    data = [n for n in features if n in projected and not _is_text_or_mask(names[n])]
    latents = _latents(gm, sources, data, timed=step is not None)
    sources = list(dict.fromkeys([*sources, *latents]))
    if not sources:
        raise NothingToCache(
            "no latent input: no floating point tensor of 3 or more dimensions"
        )
    own = latents if step is None else _own_latents(gm, latents, names)
    conditioning = tuple(
        node
        for node in given
        if node not in times and node not in own and _is_data(node)
    )
    return ForwardInputs(
        names=tuple(names.values()),
        static=static,
        timestep=step,
        sources=frozenset(sources),
        latents=tuple(latents),
        conditioning=conditioning,
        conditioning_names=tuple(names[node] for node in conditioning),
        conditioning_indices=tuple(map(placeholders.index, conditioning)),
        timestep_index=None if step is None else placeholders.index(step),
        static_indices=tuple(
            i for i, node in enumerate(placeholders) if is_static(node)
        ),
        attribute_indices=tuple(
            i
            for i, node in enumerate(placeholders)
            if is_static(node) and not _PARAMETER_OR_BUFFER.search(source_of(node))
        ),
        number_indices=tuple(
            i
            for i, node in enumerate(placeholders)
            if node in given and not isinstance(node.meta.get("val"), torch.Tensor)
        ),
        maybe_timestep=tuple(
            names[node] for node in possible_timesteps(given, ancestry) if step is None
        ),
    )


def name_the_timestep(inputs: ForwardInputs) -> str | None:
    """What to do where no timestep is found; None if no input could be it."""
    if not inputs.maybe_timestep:
        return None
    names = ", ".join(inputs.maybe_timestep)
    return f"name it by options={{'timestep': ...}} if it is one of these: {names}"


def with_streams(
    gm: fx.GraphModule, inputs: ForwardInputs, adds: Sequence[ResidualAdd]
) -> ForwardInputs:
    """In a fragment of a forward, the latents are the streams that come in.

    It has no timestep, or no result shaped like its latent. Only a standing latent
    shows there that two calls are of one step, so a text stream must not be among them.
    """
    answered = _alike_any(inputs.latents, _results(gm), free=1)
    if inputs.timestep is not None and answered:
        return inputs
    placeholders = gm.graph.find_nodes(op="placeholder")
    names = dict(zip(placeholders, inputs.names, strict=True))
    streams = dict.fromkeys(add.stream for add in adds if add.stream in inputs.sources)
    latents = tuple(node for node in streams if not _is_text_or_mask(names[node]))
    if not latents:
        return inputs
    others = [node for node in inputs.latents if node not in latents]
    kept = [node for node in inputs.conditioning if node not in latents]
    conditioning = (*others, *kept)
    return replace(
        inputs,
        latents=latents,
        conditioning=conditioning,
        conditioning_names=tuple(names[node] for node in conditioning),
        conditioning_indices=tuple(map(placeholders.index, conditioning)),
    )


def _latents(
    gm: fx.GraphModule,
    sources: Sequence[fx.Node],
    data: Sequence[fx.Node],
    *,
    timed: bool,
) -> Sequence[fx.Node]:
    """The data shaped like a result; for a result without, like it but for channels.

    Not the latter in a fragment without a timestep, whose inputs include modulations.

    Images come before vectors. Where nothing is, all images count (one that stands
    still does no harm), or all sources where there is no image. ``data`` holds neither
    text nor masks nor tables.
    """
    results = _results(gm)
    images = [node for node in data if node in sources]
    latents = _alike_any(images, results)
    for result in results if timed else ():
        alike = _alike_any(images, [result], free=1)
        if not set(alike) & set(latents):
            latents += alike
    return latents or _alike_any(data, results) or images or sources


def _own_latents(
    gm: fx.GraphModule, latents: Sequence[fx.Node], names: Mapping[fx.Node, str]
) -> set[fx.Node]:
    """The latents without those that may be references shaped like them.

    One for every result shaped like it, by the names; else the inputs of one name.
    """
    own: set[fx.Node] = set()
    words = {node: last_word(names[node]) for node in latents}
    likely = sorted(latents, key=lambda n: not re.fullmatch(_LATENT_NAMES, words[n]))
    for result in _results(gm):
        left = [node for node in likely if node not in own]
        alike = _alike_any(left, [result]) or _alike_any(left, [result], free=1)
        own.update(alike[:1])
    return own or {node for node in latents if words[node] == words[likely[0]]}


def _results(gm: fx.GraphModule) -> list[torch.Tensor]:
    results = [tensor_of(node) for node in gm.graph.output_node().all_input_nodes]
    return [result for result in results if result is not None]


def _alike_any(
    nodes: Sequence[fx.Node], results: Sequence[torch.Tensor], free: int = 0
) -> list[fx.Node]:
    return [
        node
        for node in nodes
        if any(_alike(node.meta["val"], result, free) for result in results)
    ]


def _read_by_a_linear(
    ancestry: Ancestry, static: frozenset[fx.Node]
) -> frozenset[fx.Node]:
    """Values that a linear or convolution reads before any other expensive op.

    Not among them: masks and tables of positions, which attention reads.
    """
    read: set[fx.Node] = set()
    for node in reversed(ancestry.nodes):
        for user in node.users:
            by_attention = is_attention(user) or is_matmul_of_activations(user, static)
            if not by_attention if is_expensive(user) else user in read:
                read.add(node)
    return frozenset(read)


def _is_text_or_mask(name: str) -> bool:
    return re.search(_TEXT_NAMES, user_name(name).lower()) is not None


def _is_argument(source: str) -> bool:
    """Whether a source is passed to the call rather than read from a module."""
    return not re.match(r"^(L\['self'\]|G\[)", source)


def _is_size(source: str) -> bool:
    """Whether Dynamo passes the size of a tensor, whose name it has, beside it."""
    return re.search(r"\.(size|stride|storage_offset)\(", source) is not None


def _is_feature(node: fx.Node) -> bool:
    value = tensor_of(node)
    return value is not None and value.ndim >= 2 and value.is_floating_point()


def _is_data(node: fx.Node) -> bool:
    value = tensor_of(node)
    return value is not None and not value.is_complex()


def _alike(a: torch.Tensor, b: torch.Tensor, free: int) -> bool:
    """Same rank and at most ``free`` sizes that differ (the channels).

    Of tokens (B, T, C) that is the last, of images and videos any.
    """
    if a.ndim != b.ndim:
        return False
    # a result's size may be that of an index: another symbol of the same value
    sizes = zip(map(size_hint, a.shape), map(size_hint, b.shape), strict=True)
    other = [m != n for m, n in sizes]
    return sum(other) <= free and not (a.ndim == 3 and any(other[:2]))
