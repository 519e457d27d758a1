"""Which input is the timestep, and which others change with it.

    timestep (B,) -> mul -> sin, cos -> linear -> gates
    sigma    (B,) -> mul -> sin, cos -> ...                moves along

The graph shows candidates (they feed the sines and cosines of an embedding); names
decide between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import fx

from rfc_compile.errors import CannotCache
from rfc_compile.passes.analysis.input_names import input_named, last_word
from rfc_compile.passes.fx_utils import Ancestry, aten, is_copy, is_layout, packet

_TIMESTEP_NAMES = (
    r"time_?steps?",
    r"t",
    r".*time_?steps?.*",
    r".*(sigma|noise|time).*",
    r".*step.*",
)

_LABEL_NAMES = (
    r"y|c|.*(class|label|cond|categor|speaker|lang|type|text|token|prompt|mask|ids?$).*"
)
"""What else is looked up in a table."""

_TIME_NAMES = r"time|sigma"


def find_timestep(
    given: Sequence[fx.Node],
    names: Mapping[fx.Node, str],
    ancestry: Ancestry,
    wanted: str | None,
) -> fx.Node | None:
    """The timestep among the inputs of a call; None if there is none.

    Raises:
        CannotCache: several candidates with equally likely names, or no input has the
            ``wanted`` name.
        OptionError: several inputs have it.
    """
    if wanted is not None:
        return input_named(wanted, given, names)
    words = {node: last_word(names[node]).lower() for node in given}
    feeding = [node for node in _feeding_waves(given, ancestry) if _is_number(node)]
    flat = [node for node in given if _is_per_sample(node)]
    shaped = [node for node in given if _is_shaped_per_sample(node)]
    for small in flat, shaped:
        waving = [node for node in feeding if node in small]
        for candidates, patterns in (
            (waving, _TIMESTEP_NAMES),
            (small, _TIMESTEP_NAMES),
            (feeding, _TIMESTEP_NAMES[:3]),  # one for each token or frame
        ):
            for pattern in patterns:
                named = [n for n in candidates if re.fullmatch(pattern, words[n])]
                if named:
                    return _closest(named, given, words)
        if small is flat and len(waving) > 1:
            which = ", ".join(names[node] for node in waving)
            raise CannotCache(
                f"several inputs could be the timestep ({which}): "
                "name it with options={'timestep': ...}"
            )
        found = waving or _only_one_looked_up(small, words)
        if len(found) == 1:
            return found[0]
    return None


def possible_timesteps(
    given: Sequence[fx.Node], ancestry: Ancestry
) -> Iterator[fx.Node]:
    """Tensors of a number for each row, fractions, and one embedded for each token."""
    feeding = set(_feeding_waves(given, ancestry))
    for node in given:
        value = node.meta.get("val")
        by_token = node in feeding and getattr(value, "ndim", 0) == 2
        by_sample = _is_per_sample(node) or _is_shaped_per_sample(node)
        whole = isinstance(value, int | torch.SymInt)
        if (by_sample and not whole) or (by_token and _is_number(node)):
            yield node


def _only_one_looked_up(
    small: Sequence[fx.Node], words: Mapping[fx.Node, str]
) -> list[fx.Node]:
    """The input that is looked up in a table of timesteps, whatever its name."""
    found = [
        node
        for node in small
        if _is_looked_up(node) and not re.fullmatch(_LABEL_NAMES, words[node])
    ]
    return found if len(found) == 1 else []


def _is_looked_up(node: fx.Node) -> bool:
    for user in node.users:
        if packet(user) in (aten.embedding, aten.index, aten.index_select):
            return user.args[0] is not node
        if (is_layout(user) or is_copy(user)) and _is_looked_up(user):
            return True
    return False


def moving_along(
    given: Sequence[fx.Node],
    names: Mapping[fx.Node, str],
    ancestry: Ancestry,
) -> Iterator[fx.Node]:
    """Inputs that are embedded like a timestep and named like a time."""
    for node in _feeding_waves(given, ancestry):
        if _is_number(node) and re.search(_TIME_NAMES, last_word(names[node]).lower()):
            yield node


def _feeding_waves(given: Iterable[fx.Node], ancestry: Ancestry) -> Iterator[fx.Node]:
    reached = 0
    for node in ancestry.nodes:
        if node.op == "call_function" and packet(node) in (aten.sin, aten.cos):
            reached |= ancestry.masks[node]
    return (node for node in given if reached >> ancestry.index[node] & 1)


def _closest(
    named: Sequence[fx.Node], given: Sequence[fx.Node], words: Mapping[fx.Node, str]
) -> fx.Node:
    """Of several inputs of like names the one that goes with the first large input."""
    for node in given:
        if not _is_per_sample(node):
            stem = words[node]
            for candidate in named:
                if stem and words[candidate].startswith(stem):
                    return candidate
    return named[0]


def _is_number(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return value.dtype is not torch.bool and not value.is_complex()
    return isinstance(value, int | float | torch.SymInt | torch.SymFloat)


def _is_per_sample(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return _is_number(node) and getattr(value, "ndim", 0) <= 1


def _is_shaped_per_sample(node: fx.Node) -> bool:
    """Whether it has one number for each row, as (B, 1, 1, 1)."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.ndim < 2:
        return False
    single = [isinstance(size, int) and size == 1 for size in value.shape[1:]]
    return _is_number(node) and all(single)
