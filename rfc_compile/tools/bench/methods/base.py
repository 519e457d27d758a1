"""What a method is to the benchmark: settings to sweep, and how one is applied.

A method is one file here and one line in `METHODS`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal

from torch import Tensor, nn

from rfc_compile.tools.bench.workloads import Denoise, Step, Workload, plain
from rfc_compile.tools.measure.trial import compile_model

EAGER: Final = "eager"
INDUCTOR: Final = "inductor"

Mode = Literal["eager", "inductor"]

SETTINGS: Final = 14
"""How many settings of a method are tried; fewer if it has an interval alone."""


@dataclass(frozen=True)
class Applied:
    """A method at one setting, applied to a model.

    Attributes:
        begin: to be called before every run.
        close: undoes what was done outside the model.
        nfc: full computations of the last run, where the method knows them itself.
    """

    denoise: Denoise
    begin: Callable[[], object] = lambda: None
    close: Callable[[], object] = lambda: None
    nfc: Callable[[], float] | None = None


Apply = Callable[[nn.Module, Workload, Mapping[str, Any], Mode], Applied]
"""(model, workload, setting, mode) -> the model with the method at that setting."""


@dataclass(frozen=True)
class Method:
    """A way to run a model.

    Attributes:
        quick: how many of them, from the first on, `--quick` tries.
        ours: whether it is this package with its own estimators.
        rival: whether it is another system, to be compared with ours.
        on_shapes: settings for models whose images mean nothing, where thresholds that
            were found on another decide anything; none for its best on the bundled one.
    """

    name: str
    apply: Apply
    sweep: Sequence[Mapping[str, Any]]
    quick: int = 2
    ours: bool = False
    rival: bool = True
    modes: Sequence[Mode] = (INDUCTOR,)
    on_shapes: Sequence[Mapping[str, Any]] = ()

    @property
    def is_control(self) -> bool:
        """Whether it is in no claim: neither ours nor a rival; only run at NFC 14."""
        return not (self.ours or self.rival)


def describe(setting: Mapping[str, Any]) -> str:
    """A setting in one line."""
    named = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in setting.items()
    ]
    return ", ".join(named) or "default"


def compiled(model: nn.Module, mode: Mode) -> nn.Module:
    """The model as the mode wants it run."""
    return model if mode == EAGER else compile_model(model, mode)


def calling(model: nn.Module, around: Callable[[Step], Any]) -> Denoise:
    """Calls of a model after `around(step)`, inside the context that it may return."""
    predict = plain(model)

    def denoise(step: Step, x: Tensor, /, **inputs: Tensor) -> Tensor:
        with around(step) or nullcontext():
            return predict(step, x, **inputs)

    return denoise
