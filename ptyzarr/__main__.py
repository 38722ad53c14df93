"""The program: ``ptyzarr`` and ``python -m ptyzarr``."""

from __future__ import annotations

import sys
from importlib import import_module

_INTERRUPTED = 75


def main() -> None:
    """Load the command line and run it; an interrupt while it loads is one line, too."""
    try:
        command_line = import_module("ptyzarr.cli")
    except KeyboardInterrupt:
        sys.stderr.write("ptyzarr: interrupted\n")
        sys.exit(_INTERRUPTED)
    command_line.main()


if __name__ == "__main__":
    main()
