"""Measurements judged by limits, for CI: the parts of `rfc-compile check`.

    quantities.py   what can be limited
    limits.py       limits and verdicts
    baseline.py     limits from an earlier run
    outcome.py      what one check found
    junit.py, markdown.py, record.py    as XML, Markdown and JSON
    conditions.py   verdicts of every check
    session.py      one check, from a target to its outcome
    reports.py      the files that are written

Of these, only `session.py` draws anything.
"""
