"""The command ``rfc-compile`` and its subcommands."""
