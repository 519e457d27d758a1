"""What is built on the backend: the command line, measuring, tuning, checking."""
