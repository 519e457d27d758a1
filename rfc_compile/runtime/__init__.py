"""What runs at every step: place the call, decide, run a graph, record it."""
