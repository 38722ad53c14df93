"""The program: ``ptyzarr`` and ``python -m ptyzarr``."""

from __future__ import annotations

import signal
import sys
from importlib import import_module

_INTERRUPTED = 75


def main() -> None:
    """Load the command line and run it; a signal while it loads is one line, too."""
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        command_line = import_module("ptyzarr.cli")
    except KeyboardInterrupt:
        sys.stderr.write("ptyzarr: interrupted\n")
        sys.exit(_INTERRUPTED)
    try:
        command_line.main()
    except KeyboardInterrupt:  # a second one, while the first was being told
        sys.exit(_INTERRUPTED)
    finally:
        # Nothing may follow the one line: no other signal, and nothing of what an interrupt left
        # half made when it is destroyed.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        sys.unraisablehook = lambda _: None


if __name__ == "__main__":
    main()
