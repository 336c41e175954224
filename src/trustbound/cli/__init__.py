"""The command line: heavy imports happen when a command is chosen."""
