"""A process that ends with the one that started it, whatever it is doing: importing, measuring.

Started as ``python -m ptyzarr.lifeline MODULE``; runs ``MODULE.main()`` while somebody holds the
other end of its standard input. This module imports nothing slow, so that it watches from the
first moment on.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from importlib import import_module


def watch() -> None:
    """End this process, and those that it started, as soon as its standard input is closed.

    What is still in the pipe stays there for those who read it.
    """
    threading.Thread(target=_end_with_input, name="ptyzarr-lifeline", daemon=True).start()


def main() -> None:
    """Run the module that the command line names."""
    watch()
    try:
        import_module(sys.argv[1]).main()
    except BrokenPipeError:  # nobody is there to be answered, or told
        os._exit(0)


def _end_with_input() -> None:
    poll = select.poll()
    poll.register(sys.stdin.fileno(), 0)  # the hang-up alone is reported
    poll.poll()
    processes = sys.modules.get("multiprocessing")
    for child in processes.active_children() if processes else ():
        child.kill()
    os._exit(0)


if __name__ == "__main__":
    main()
