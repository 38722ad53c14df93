"""The command line."""

from ptyzarr.cli.main import BAD_INPUT, EXIT_CODES, INTERRUPTED, cli, main

__all__ = ["BAD_INPUT", "EXIT_CODES", "INTERRUPTED", "cli", "main"]
