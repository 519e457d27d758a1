"""Models built from a config without weights, and the inputs for them."""
