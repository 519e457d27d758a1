"""Every row of a batch placed and decided by itself."""
