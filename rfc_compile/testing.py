"""A pytest plugin: the fixture `rfc_check`, limits on caching inside a test suite.

    pytest_plugins = ["rfc_compile.testing"]  # in the conftest.py at the root

    def test_caching(rfc_check):
        rfc_check((model, sample), "rfc.json", min_psnr=30, max_nfc=20)

It has to be asked for, like this or with `-p rfc_compile.testing`: pytest would import
a registered plugin in every run, and with it torch, which takes seconds. Needs the
extra `demo`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rfc_compile.tools.checking.outcome import Outcome
    from rfc_compile.tools.measure.target import Settings


class RfcCheck:
    """Checks caching inside a test; its numbers go to pytest's own JUnit report."""

    def __init__(self, record_property: Callable[[str, object], None]) -> None:
        self._record_property = record_property

    def __call__(
        self,
        target: Any = "glyph-dit",
        config: str | Path | Mapping[str, Any] | None = None,
        *,
        settings: Settings | None = None,
        baseline: str | Path | None = None,
        tolerance: float | str | None = None,
        strict: bool = False,
        allow_uncached: bool = False,
        seeds: int = 2,
        **limits: float | str,
    ) -> Outcome:
        """Draws with and without caching; the test fails if a limit is missed.

        Args:
            target: a pair (model, sample), where sample(model, seed) draws; a pipeline
                of diffusers; or what `rfc-compile check --target` takes.
            config: a tuned file, a dict of options, or None for the default options.
            settings: how the target is sampled.
            baseline: JSON report of an earlier check, or a tuned file.
            tolerance: how much worse than the baseline, as a share or `"5%"`.
            strict: fail for another model or sampler than the tuned one.
            allow_uncached: an uncached model is no failure.
            seeds: how many are drawn.
            limits: `min_psnr=30`, `max_memory="2GiB"`, as the options of the command.

        Returns:
            The verdicts and what was measured.

        Raises:
            OptionError: an unknown limit or option, or a value that is not allowed.
            TargetError: with this target nothing can be measured.
            TunedFileError: the tuned file or the baseline cannot be used.
        """
        from rfc_compile.tools.checking.baseline import parse_tolerance, read_baseline
        from rfc_compile.tools.checking.limits import make_limits
        from rfc_compile.tools.checking.session import Rules, check, make_config
        from rfc_compile.tools.measure.target import resolve_target

        rules = Rules(
            limits=make_limits(limits),
            baseline=None if baseline is None else read_baseline(baseline),
            tolerance=None if tolerance is None else parse_tolerance(tolerance),
            strict=strict,
            allow_uncached=allow_uncached,
        )
        drawn, options = resolve_target(target, settings), make_config(config)
        outcome = check(drawn, options, rules, seeds=range(seeds))
        for verdict in outcome.verdicts:
            self._record_property(f"rfc_{verdict.name}", verdict.value)
        if not outcome.passed:
            pytest.fail(str(outcome), pytrace=False)
        return outcome


@pytest.fixture
def rfc_check(record_property: Callable[[str, object], None]) -> RfcCheck:
    """A function that checks caching, see `RfcCheck`."""
    return RfcCheck(record_property)
