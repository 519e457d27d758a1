"""What other libraries can tell the runtime; nothing depends on it."""
