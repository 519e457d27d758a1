"""Measurements judged by limits, for CI: `rfc-compile check`."""
