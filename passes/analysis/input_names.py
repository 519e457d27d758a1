"""How inputs are called in messages and in the option ``timestep``.

L['timestep'], L['kwargs']['timestep']    timestep
L['args'][1]                              args[1]
L['batch'].t                              batch.t
L['a']['t'], L['b']['t']                  a['t'], b['t']; both would be t
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import fx

from rfc_compile.errors import CannotCache, OptionError

_SPELLINGS = (
    (r"dict\.__getitem__\((.+), list\(dict\.keys\(\1\)\)\[(\d+)\]\)", r"\1[\2]"),
    (r"list\.__getitem__\((.+), (\d+)\)", r"\1[\2]"),
    (r"^_\w+\((.+)\)$", r"\1"),  # a number or an array as a tensor
    (r"\.item\(\)$", ""),
    (r"^[LG]\['([^']+)'\]", r"\1"),
)
"""What Dynamo writes around the path of an input, and what a user does."""


def user_names(sources: Mapping[fx.Node, str]) -> dict[fx.Node, str]:
    """The name of every input: the short one, or its path where several share that."""
    short = {node: user_name(source) for node, source in sources.items()}
    count = Counter(short.values())
    return {
        node: name if count[name] == 1 else _path(sources[node])
        for node, name in short.items()
    }


def user_name(source: str) -> str:
    """The last name in Dynamo's source of an input, with the index behind it."""
    return re.sub(r"^.*\['([^']+)'\]", r"\1", _path(source))


def last_word(name: str) -> str:
    """``args`` of ``args[1]``, ``t`` of ``batch.t`` and ``a['t']``."""
    words = re.split(r"[.'\[\]]+", re.sub(r"\[\d+\]", "", name).rstrip("']"))
    return words[-1]


def input_named(
    wanted: str, given: Iterable[fx.Node], names: Mapping[fx.Node, str]
) -> fx.Node:
    """The input that the option ``timestep`` names.

    Raises:
        OptionError: several inputs have this name, but for their indices or paths.
        CannotCache: none has it.
    """
    nodes = {names[node]: node for node in given}
    if wanted in nodes:
        return nodes[wanted]
    fitting = [name for name in sorted(nodes) if last_word(name) == wanted]
    if len(fitting) == 1:
        return nodes[fitting[0]]
    if fitting:
        raise OptionError(
            f"timestep={wanted!r} fits several inputs, name one: {', '.join(fitting)}"
        )
    known = ", ".join(sorted(nodes))
    raise CannotCache(f"no input is named timestep={wanted!r}; inputs are: {known}")


def _path(source: str) -> str:
    for theirs, ours in _SPELLINGS:
        source = re.sub(theirs, ours, source)
    return source
