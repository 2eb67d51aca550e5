"""The subcommands of `foreclick` that need the extra `lab`: demo, broker, generate, bench."""
