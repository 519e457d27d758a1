"""Options of one run, which replace those that its model was compiled with.

    trajectory("left", num_steps=50, target_nfc=12)      full steps of this run
    trajectory("right", num_steps=50, off=True)          every step full
    rows([Row("left", 50, target_nfc=12), ...])          of each row of a batch

The compiled graphs stay: they do not depend on which steps are full.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from rfc_compile.config.option_values import flag
from rfc_compile.config.options import Options
from rfc_compile.config.schedule_choice import READ_BY, TARGETS
from rfc_compile.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Which steps of one run are full; at most one of the attributes is given.

    Attributes:
        preset: ``quality``, ``balanced`` or ``fast``.
        tolerance: of ``error_control``.
        min_psnr: the wanted PSNR against the uncached image, in dB.
        target_nfc: full steps wanted, spread evenly.
        target_speedup: the speed-up wanted, by full steps spread evenly.
        off: every step is full.

    Raises:
        OptionError: a value that is not allowed, or several.
    """

    preset: str | None = None
    tolerance: float | None = None
    min_psnr: float | None = None
    target_nfc: int | None = None
    target_speedup: float | None = None
    off: bool = False

    def __post_init__(self) -> None:
        flag("off", self.off)
        given = [f"{name}={value!r}" for name, value in self._given.items()]
        if len(given) > 1:
            raise OptionError(f"{given[0]} and {given[1]} exclude each other: give one")
        if given:
            self.applied_to(Options())

    @property
    def _given(self) -> dict[str, object]:
        values = {item.name: getattr(self, item.name) for item in fields(RunOptions)}
        return {n: v for n, v in values.items() if v is not None and v is not False}

    def applied_to(self, options: Options) -> Options:
        """The options of a model with those of the run.

        Raises:
            OptionError: they and the model's options exclude each other.
        """
        if not self._given:
            return options
        if self.off:
            return _rescheduled(options, "interval", interval=1)
        if self.preset is not None and options.schedule == "rcs":
            return _rescheduled(options, "rcs", preset=self.preset)
        return _rescheduled(options, None, **self._given)


def _rescheduled(options: Options, schedule: str | None, **given: object) -> Options:
    """The same graphs with another schedule, without the old one's options."""
    rule: dict[str, object] = dict.fromkeys((*READ_BY, *TARGETS, "min_psnr"))
    rule |= {"full_steps": (), "schedule": schedule}
    return replace(options, **{**rule, **given})  # type: ignore[arg-type]


AS_COMPILED = RunOptions()
"""Of a run without options of its own."""


@dataclass(frozen=True)
class Row(RunOptions):
    """The request of one row of a batch, and its options.

    Attributes:
        name: of its request. Rows of one call with the same name are the guidance
            branches of one request, always in the same order.
        num_steps: steps of the request, None if not known.

    Raises:
        ValueError: ``num_steps`` is not positive.
        OptionError: an option that is not allowed.
    """

    name: str
    num_steps: int | None = None

    def __post_init__(self) -> None:
        positive(self.num_steps)
        super().__post_init__()


def positive(num_steps: int | None) -> None:
    """Check a number of steps."""
    if num_steps is not None and num_steps < 1:
        raise ValueError(f"num_steps={num_steps!r}: give a positive number of steps")
