"""The graph passes: ``pipeline.py`` lists them in order.

Passes know no model by name. ``README.md`` states the invariants between them.
"""
