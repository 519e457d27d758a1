"""What a user may set, and the files that hold it."""
