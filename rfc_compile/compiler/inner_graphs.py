"""Graphs handed to the inner backend, compiled on first use."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from rfc_compile import torch_internals
from rfc_compile.config.options import Options
from rfc_compile.errors import InnerBackendFailed
from rfc_compile.passes.fx_utils import twin
from rfc_compile.torch_internals import CompiledGraph, without_autocast


def compile_inner(
    gm: fx.GraphModule, inputs: Sequence[Any], options: Options, mode: str | None
) -> CompiledGraph:
    """Compile a graph with the backend that ``options.inner`` names.

    ``mode`` is torch.compile's own and goes to inductor.
    """
    settings: Mapping[str, Any] = options.inner_options
    if options.inner == "inductor":
        modes = torch_internals.inductor_mode_options(mode)
        return torch_internals.compile_with_inductor(gm, inputs, {**modes, **settings})
    backend = torch_internals.find_backend(options.inner)
    assert backend is not None
    keywords = {"options": dict(settings)} if settings else {}
    return backend(gm, list(inputs), **keywords)


def compile_later(
    gm: fx.GraphModule,
    inputs: Sequence[Any],
    fake_mode: Any,
    options: Options,
    mode: str | None,
) -> CompiledGraph:
    """The same for fake inputs, also after Dynamo has left."""
    with torch_internals.compile_context(fake_mode), torch.no_grad():
        return compile_inner(gm, inputs, options, mode)


class LazyGraph:
    """One graph of a step: compiles when first called, counts and times its calls.

    Attributes:
        name: ``probe``, ``full`` or ``cached``.
        seconds: time in it, in seconds, without compilation (on an accelerator the
            time to launch it).

    The ``lock`` is that of all graphs of one ``fake_mode``.
    """

    def __init__(
        self,
        name: str,
        gm: fx.GraphModule,
        fake_mode: Any,
        options: Options,
        mode: str | None,
        lock: threading.Lock,
    ) -> None:
        self.name = name
        self.gm = gm
        self.calls = 0
        self.seconds = 0.0
        self.compile_seconds = 0.0
        self._fake_mode = fake_mode
        self._options = options
        self._mode = mode
        self._compiled: CompiledGraph | None = None
        self._lock = lock

    def compile(self) -> CompiledGraph:
        """The compiled graph; compiles it if that has not been done."""
        with self._lock:
            if self._compiled is None:
                start = time.perf_counter()
                inputs = _distinct_examples(self.gm, self._fake_mode)
                try:
                    with without_autocast():  # the graphs hold the casts already
                        self._compiled = compile_later(
                            self.gm, inputs, self._fake_mode, self._options, self._mode
                        )
                except Exception as error:
                    if torch_internals.steers_dynamo(error):
                        raise
                    raise InnerBackendFailed(
                        f"the inner backend {self._options.inner!r} cannot compile "
                        f"the {self.name} graph ({type(error).__name__}: "
                        f"{(str(error).splitlines() or ['no message'])[0]})"
                    ) from error
                self.compile_seconds = time.perf_counter() - start
            return self._compiled

    def __call__(self, *arguments: Any) -> Sequence[Any]:
        """Run the graph."""
        compiled = self._compiled or self.compile()
        start = time.perf_counter()
        results = compiled(*arguments)
        self.seconds += time.perf_counter() - start
        self.calls += 1
        return results


def _distinct_examples(gm: fx.GraphModule, fake_mode: Any) -> list[Any]:
    """A fake value per input, no two the same object.

    Compilers merge inputs that are one object; the slots of a ring share an example.
    """
    examples: list[Any] = []
    seen: set[int] = set()
    for node in gm.graph.find_nodes(op="placeholder"):
        value = node.meta["val"]
        if isinstance(value, torch.Tensor) and id(value) in seen:
            with fake_mode:
                value = twin(value)
        seen.add(id(value))
        examples.append(value)
    return examples
