"""What a graph holds: inputs, residual adds, regions. Frozen records, no edits."""
