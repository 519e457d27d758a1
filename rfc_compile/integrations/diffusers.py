"""diffusers' pipelines know where a run starts and which CFG branch a call is.

    pipe.progress_bar(total=...)       begin_run(total), end_run() when it closes
    model.cache_context("cond")        branch("cond")

Both are noted in context variables, which the runtime reads before it looks at the
inputs of a call. Without diffusers, or with a version that lacks them, it goes by the
inputs alone.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from rfc_compile.integrations.methods import wrap
from rfc_compile.runtime.call_context import begin_run, branch
from rfc_compile.runtime.run_boundaries import end_run


def connect() -> None:
    """Listen to the parts of diffusers that are imported; safe to call again."""
    pipelines = sys.modules.get("diffusers.pipelines.pipeline_utils")
    models = sys.modules.get("diffusers.models.cache_utils")
    modular = sys.modules.get("diffusers.modular_pipelines.modular_pipeline")
    for owner in (
        getattr(pipelines, "DiffusionPipeline", None),
        getattr(modular, "LoopSequentialPipelineBlocks", None),
    ):
        wrap(owner, "progress_bar", _noting_start)
    wrap(getattr(models, "CacheMixin", None), "cache_context", _noting_branch)


def _noting_start(progress_bar: Any) -> Any:
    @functools.wraps(progress_bar)
    def noting(*args: Any, **kwargs: Any) -> Any:
        bar = progress_bar(*args, **kwargs)
        pipeline = args[0] if args else None
        number = begin_run(_calls(pipeline, _whole(getattr(bar, "total", None))))
        close = weakref.WeakMethod(bar.close)  # a cycle would put off its __del__

        def closing() -> None:
            end_run(number)
            closes = close()
            if closes is not None:
                closes()

        bar.close = closing  # where a loop over the bar ends, and a with block
        return bar

    return noting


def _calls(pipeline: object, total: int | None) -> int | None:
    """Timesteps of the bar's loop: solvers of order 2 have two for each iteration."""
    scheduler = getattr(pipeline, "scheduler", None)
    timesteps = getattr(scheduler, "timesteps", None)
    if total is None or not isinstance(timesteps, Tensor) or total >= len(timesteps):
        return total
    counted = getattr(pipeline, "_num_timesteps", None)
    if isinstance(counted, int) and total <= counted <= len(timesteps):
        return counted
    whole = total == getattr(scheduler, "num_inference_steps", None)
    return len(timesteps) if whole else total


def _whole(total: object) -> int | None:
    """Of a bar, that may have none or any number."""
    return int(total) if isinstance(total, int | float) and total >= 1 else None


def _noting_branch(cache_context: Any) -> Any:
    @functools.wraps(cache_context)
    @contextlib.contextmanager
    def noting(self: Any, name: str, *args: Any, **kwargs: Any) -> Iterator[None]:
        with branch(name), cache_context(self, name, *args, **kwargs):
            yield

    return noting
