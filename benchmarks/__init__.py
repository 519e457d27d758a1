"""Benchmarks of the backend: `python -m benchmarks`. Not part of the wheel."""
