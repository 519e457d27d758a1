"""The torch.compile backend ``rfc``: from Dynamo's graph to a dispatcher.

    Dynamo graph -> passes -> inner backend (lazily) -> Dispatcher

Anything that cannot be cached goes to the inner backend as it is, with one warning.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from rfc_compile import dynamo_frames, graph_report, torch_internals
from rfc_compile.compiler.graph_dumps import PassObserver
from rfc_compile.compiler.inner_graphs import LazyGraph, compile_inner, compile_later
from rfc_compile.compiler.plan import Plan, capture, complete_plan
from rfc_compile.config.options import Options
from rfc_compile.config.tuned_file import TunedOptions
from rfc_compile.errors import CannotCache, NothingToCache, OptionError
from rfc_compile.graph_report import GraphReport
from rfc_compile.integrations import adapters, diffusers
from rfc_compile.passes.rewrites.wrapped_parameters import (
    unwrapping,
    wrapped_parameters,
)
from rfc_compile.runtime import registry
from rfc_compile.runtime.dispatcher import Dispatcher
from rfc_compile.runtime.latent_dispatcher import LatentDispatcher
from rfc_compile.runtime.per_sample.dispatcher import SampleDispatcher
from rfc_compile.runtime.ranks import find_groups, meeting
from rfc_compile.runtime.timestep_dispatcher import TimestepDispatcher
from rfc_compile.runtime.uncached import Uncached, WithUncached

log = logging.getLogger(__name__)

RANKS_AND_SAMPLES = (
    "per_sample=True is not possible where several ranks share the computation of a "
    "model: leave it out, so that they decide for the batch"
)

RECOMPILE_LIMIT = (
    "this forward was compiled {} times, Dynamo's limit: calls for which it would have "
    "to be compiled again run uncached (TORCH_LOGS=recompiles shows what changes; "
    "torch._dynamo.config.recompile_limit is the limit)"
)

AHEAD = (
    "what is compiled ahead of time (aot_compile: compile where it is used instead) or "
    "split by DistributedDataParallel (compile its module instead) runs uncached"
)


def rfc(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compile one Dynamo graph; ``torch.compile(model, backend="rfc")`` calls this.

    Raises:
        OptionError: an unknown option or a value that is not allowed.
    """
    settings = Options.from_mapping(options or {})
    if isinstance(options, TunedOptions):
        options.warn_if_foreign(example_inputs)
    diffusers.connect()
    adapters.connect()
    report = graph_report.new_report(example_inputs, options)
    report.graph_break = dynamo_frames.graph_break_reason(gm)
    report.fragment = dynamo_frames.is_fragment(gm)
    for sentence in settings.without_effect:
        report.warn(sentence)
    if limit := dynamo_frames.recompile_limit():
        report.fall_back(RECOMPILE_LIMIT.format(limit))
    if dynamo_frames.is_compiled_ahead(gm):
        report.fall_back(AHEAD)
        return compile_inner(gm, example_inputs, settings, mode)
    try:
        return _cached(gm, example_inputs, settings, mode, report)
    except NothingToCache as nothing:
        if report.fragment:
            report.note(f"{report.uncached}: {nothing.reason}")
        else:
            report.fall_back(f"{report.uncached}: {nothing.reason}")
    except CannotCache as refusal:
        report.fall_back(f"{report.uncached}: {refusal.reason}")
    except (OptionError, torch_internals.DynamoControl):
        raise
    except Exception as error:  # our own bug must not cost a user's run
        log.exception("the passes failed")
        report.fall_back(
            f"{report.uncached}: the passes failed ({type(error).__name__}: {error}); "
            "please report it"
        )
    compiled = compile_inner(gm, example_inputs, settings, mode)
    return Uncached(compiled, report, settings.min_coverage)


diffusers.connect()  # torch.compile imports this module, before the first run starts
rfc.reset = registry.reset  # type: ignore[attr-defined]  # torch._dynamo.reset() calls it


def _cached(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    options: Options,
    mode: str | None,
    report: GraphReport,
) -> Callable[..., Any]:
    _refuse_gradients(example_inputs)
    observer = PassObserver()
    fakes = torch_internals.fake_inputs(gm, example_inputs)
    captured = capture(gm, fakes, options, report, observer)
    groups = find_groups(captured.gm, example_inputs, options.process_group)
    if groups and options.per_sample:
        raise CannotCache(RANKS_AND_SAMPLES)
    plan = complete_plan(captured, options, report, observer, grouped=bool(groups))
    options = plan.options
    specialized = plan.graphs.specialized
    tracing = threading.Lock()  # a fake mode serves one thread at a time
    graphs = {
        name: LazyGraph(name, subgraph.gm, plan.fake_mode, options, mode, tracing)
        for name, subgraph in specialized.graphs.items()
    }
    symbolic = any(isinstance(value, torch.SymInt) for value in specialized.examples)
    if symbolic:
        for lazy in graphs.values():  # guards on sizes are only kept while Dynamo runs
            lazy.compile()
    if plan.batch is not None:
        plan.batch.check()
    ranks = meeting(groups, specialized, options, report)
    dispatcher = _kind(plan)(plan, graphs, report, ranks)
    report.dispatcher = weakref.ref(dispatcher)
    return WithUncached(
        unwrapping(dispatcher, wrapped_parameters(gm, example_inputs)),
        lambda: (
            gm if symbolic else compile_later(gm, fakes, plan.fake_mode, options, mode)
        ),
        report,
    )


def _kind(plan: Plan) -> type[Dispatcher]:
    if plan.batch is not None:
        return SampleDispatcher
    return TimestepDispatcher if plan.timed else LatentDispatcher


def _refuse_gradients(example_inputs: Sequence[Any]) -> None:
    if torch.is_grad_enabled() and any(
        isinstance(value, torch.Tensor) and value.requires_grad
        for value in example_inputs
    ):
        raise CannotCache(
            "gradients are wanted: call it under torch.no_grad() or "
            "torch.inference_mode() to generate images"
        )
