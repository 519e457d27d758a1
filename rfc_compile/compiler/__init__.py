"""From an analysed graph to compiled graphs of a step."""
