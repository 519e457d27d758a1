"""Which function Dynamo is compiling now, and who calls it.

    compiled(x)              torch.compile's wrapper (eval_frame.py)
      forward(self, x)       given up by Dynamo: runs as Python
        block(x)             compiled now (convert_frame.py): a fragment

Read off the Python stack and Dynamo's record of this very function: its counters are
those of the whole process. Only while Dynamo compiles, from inside a backend; what a
module was compiled with can be asked at any time.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from traceback import FrameSummary
from types import CodeType, FrameType
from typing import Any

import torch
from torch import fx, nn
from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list
from torch._dynamo import config, convert_frame, eval_frame
from torch._dynamo.convert_frame import FRAME_COMPILE_COUNTER
from torch._dynamo.eval_frame import OptimizedModule
from torch._dynamo.utils import counters, get_compilation_metrics
from torch.utils._pytree import tree_leaves

_TORCH = str(Path(torch.__file__).parent)

NUMBERS_READ = (
    "- a number is read from a tensor (.item(), .tolist()): pass it as a Python "
    "number, and the forward stays whole"
)

MADE_INSIDE = (
    "- an object that the model makes, at its first call perhaps: call the model once "
    "before torch.compile, or make the object in __init__"
)

REMEDIES = {
    "Data dependent operator": NUMBERS_READ,
    "Tensor.item()": NUMBERS_READ,
    "torch.compiler.disable": "- its author keeps Dynamo out of it: an attention by a "
    "decorator (torch.compiler.disable = lambda f=None, **_: f or (lambda g: g) before "
    "the import undoes it), a layer by a hook (offload groups of blocks instead)",
    "nn.Parameter()` constructor": "- layerwise casting and hooks make parameters at "
    "every call: quantise the weights by torchao instead, or leave them as they are",
    "op returned non-Tensor": "- Dynamo traces no such context: in place of "
    "torch.backends.cuda.sdp_kernel use torch.nn.attention.sdpa_kernel",
    "UnsupportedFakeTensorException": "- a table that the model fills at its first "
    "call: call the model once before torch.compile",
    "Dynamic shape operator": "- a size that depends on values: select by a mask "
    "before the model is called, or multiply by it",
    "setattr() on Tensor.requires_grad": "- set requires_grad outside of the forward",
    "An opaque object was created": MADE_INSIDE,
}
"""What to do about a break, by a part of Dynamo's reason."""

_EXPLAINED = {
    "the function `<class '": MADE_INSIDE,
    "the builtin `_thread.": MADE_INSIDE,
    "method `__new__` of class": MADE_INSIDE,
}
"""The same by a part of its explanation, where the reason is that of many."""

_PLACES = {
    "torch/nn/modules/transformer.py": "- it asks whether its mask is causal: pass "
    "is_causal=, of a decoder tgt_is_causal=, where the model calls it",
}
"""The same by the file that the break is in, where the user cannot edit it."""

_JUMP = "generic_jump"
BRANCH_ON_A_TENSOR = "a branch on a tensor's value"
BRANCH_ON_A_NUMBER = (
    "- pass what is tested as a Python number, and the forward stays whole"
)

_cuts: dict[tuple[str, int | None], str] = {}
"""Why Dynamo cut a function, by file and line."""


def graph_break_reason(gm: fx.GraphModule) -> str | None:
    """Why this graph is not the whole forward; None if it is, or is already known.

    If Dynamo skipped the functions that call it, its reasons for that.
    """
    cut: Any = getattr(gm, "compile_subgraph_reason", None)
    frames: list[FrameSummary] = [] if cut is None else list(cut.user_stack)
    if cut is not None and cut.graph_break:
        where = [_place(x.filename, x.lineno) for x in frames[-1:]]
        text = _with_remedy(str(cut.reason), *where)
        _cuts.update({(x.filename, x.lineno): text for x in frames})
        return text
    before = [_cuts.get((x.filename, _resumed_at(x))) for x in frames]
    if any(before):  # the graphs before the cut may hold nothing of the model
        return next(filter(None, before))
    reasons = [_why_given_up(frame.f_code) for frame in _given_up()]
    return "; ".join(dict.fromkeys(filter(None, reasons))) or None


def is_fragment(gm: fx.GraphModule) -> bool:
    """Whether the graph is one of several of a forward with graph breaks."""
    cut: Any = getattr(gm, "compile_subgraph_reason", None)
    if cut is not None and (cut.graph_break or any(map(_resumes, cut.user_stack))):
        return True
    return bool(_given_up())


def is_compiled_ahead(gm: fx.GraphModule) -> bool:
    """Whether the graph is to be saved (``aot_compile``), not called."""
    inputs = gm.graph.find_nodes(op="placeholder")
    return any("grapharg" not in node.meta for node in inputs)


def compiled_function() -> int | None:
    """Identifies the function that Dynamo compiles now; None outside of it."""
    code = _compiled_code()
    return None if code is None else id(code)


def outermost_call() -> object:
    """What belongs to one call of torch.compile's wrapper, as long as it is kept.

    Not only while Dynamo compiles. None outside of such a call.
    """
    call = _outermost_call()
    return None if call is None else call["kwargs"]


def is_passed(value: object) -> bool:
    """Whether the caller of torch.compile's wrapper passes this very object."""
    call = _outermost_call()
    given = () if call is None else tree_leaves((call["args"], call["kwargs"]))
    return any(value is one for one in given)


def called_module() -> nn.Module | None:
    """The module whose method torch.compile's wrapper runs; None of a function."""
    call = _outermost_call() or {}
    owners = call.get("self"), getattr(call.get("fn"), "__self__", None)
    return next((one for one in owners if isinstance(one, nn.Module)), None)


def _outermost_call() -> Mapping[str, Any] | None:
    """The variables of torch.compile's wrapper that was called first."""
    wrappers = [x for x in _stack() if x.f_code.co_filename == eval_frame.__file__]
    known = [wrapper.f_locals for wrapper in reversed(wrappers)]
    return next((one for one in known if one.get("kwargs") is not None), None)


def recompile_limit() -> int | None:
    """How often Dynamo may compile a function, if this compilation is the last one."""
    code = _compiled_code()
    limit = int(config.recompile_limit)
    if code is None or len(_debug_get_cache_entry_list(code)) + 1 < limit:
        return None
    return limit


def recompile_limit_of(count: int) -> contextlib.AbstractContextManager[None]:
    """Let Dynamo compile one function so many times at least inside."""
    limit = max(count, config.recompile_limit)
    patched: contextlib.AbstractContextManager[None] = config.patch(
        recompile_limit=limit
    )
    return patched


class CompileCounts:
    """Graph breaks and recompilations since it was made."""

    def __init__(self) -> None:
        self._breaks = _graph_breaks()
        self._compilations = dict(FRAME_COMPILE_COUNTER)

    def since(self) -> tuple[int, int]:
        """Graph breaks met, and compilations of a code object beyond its first."""
        recompiled = sum(
            max(0, count - self._compilations.get(key, 0) - 1)
            for key, count in FRAME_COMPILE_COUNTER.items()
        )
        return _graph_breaks() - self._breaks, recompiled


def _graph_breaks() -> int:
    return sum(counters["graph_break"].values())


def _wrapped_backend(compiler: Any) -> Any:
    names = ("_torchdynamo_orig_backend", "_torchdynamo_orig_callable")  # since 2.8
    return next((vars(compiler)[n] for n in names if n in vars(compiler)), None)


def wrapper_options(module: object, backend: str) -> Mapping[str, Any] | None:
    """The options that ``torch.compile`` gave this wrapper of a module.

    None if it is no wrapper, or one for another backend.
    """
    if not isinstance(module, OptimizedModule):
        return None
    compiler: Any = module.dynamo_ctx.callback
    while inner := _wrapped_backend(compiler):
        compiler = inner
    if getattr(compiler, "compiler_name", None) != backend:
        return None
    return dict(compiler.kwargs.get("options", {}))


def _resumes(frame: FrameSummary) -> bool:
    return frame.name.startswith("torch_dynamo_resume_in")


def _resumed_at(frame: FrameSummary) -> int:
    """The line of the cut after which a function resumes; -1 for a whole one."""
    line = frame.name.rpartition("_at_")[2]
    return int(line) if _resumes(frame) and line.isdigit() else -1


def _given_up() -> list[FrameType]:
    """What calls the function compiled now and runs as Python under torch.compile.

    Dynamo meets the outermost function first, so it has given these up or cut them.
    """
    within: list[FrameType] = []
    for frame in _stack_below_dynamo():
        name = frame.f_code.co_filename
        if name == eval_frame.__file__:
            return within
        if not name.startswith(_TORCH):  # hooks and the calls of modules
            within.append(frame)
    return []


def _stack_below_dynamo() -> list[FrameType]:
    """From the caller of the function compiled now on, innermost first."""
    stack = _stack()
    entered = [i for i, frame in enumerate(stack) if _converts(frame)]
    for i in entered:
        if i + 1 < len(stack) and not _converts(stack[i + 1]):
            return stack[i + 1 :]
    return []


def _compiled_code() -> CodeType | None:
    for frame in filter(_converts, _stack()):
        if frame.f_code.co_name == "__call__":  # (self, frame, cache_entry, ...)
            code: CodeType = frame.f_locals["frame"].f_code
            return code
    return None


def _stack() -> list[FrameType]:
    stack: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    return stack


def _converts(frame: FrameType) -> bool:
    return frame.f_code.co_filename == convert_frame.__file__


def _why_given_up(code: CodeType) -> str | None:
    """The newest reason that Dynamo recorded for a function; None for one it cut."""
    place = (code.co_name, code.co_filename, code.co_firstlineno)
    for record in reversed(get_compilation_metrics()):
        known = (record.co_name, record.co_filename, record.co_firstlineno)
        if known == place and record.fail_reason:
            where = record.fail_user_frame_filename or code.co_filename
            line = _place(where, record.fail_user_frame_lineno)
            return _with_remedy(str(record.fail_reason), line)
    return None


def _with_remedy(message: str, *where: str) -> str:
    reason = message.strip().split("\n", 1)[0]
    remedies = [text for part, text in _PLACES.items() if part in "".join(where)]
    remedies += [text for part, text in REMEDIES.items() if part in reason]
    remedies += [text for part, text in _EXPLAINED.items() if part in message]
    if reason.startswith(_JUMP):
        reason, remedies = BRANCH_ON_A_TENSOR, [BRANCH_ON_A_NUMBER]
    return " ".join([reason, *where, *remedies[:1]])


def _place(filename: str, line: object) -> str:
    path = Path(filename)
    of_torch = path.is_relative_to(_TORCH)
    name = path.relative_to(Path(_TORCH).parent).as_posix() if of_torch else path.name
    return f"({name}:{line})"
