"""Files that are written whole, and JSON that is read with care."""
