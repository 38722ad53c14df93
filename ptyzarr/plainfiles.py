"""Reading what is a regular file, and nothing else.

Opening a FIFO waits for a writer that may never come, and opening a device may do anything. Where
files of ours are expected, whatever else lies there is an `OSError` like any other.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_plain(path: Path) -> BinaryIO:
    """Return a regular file, open for reading; never waits for anybody.

    Raises
    ------
    OSError
        If there is none, or something else.
    """
    _check(path, os.stat(path))
    fd = os.open(path, _FLAGS)
    try:
        _check(path, os.fstat(fd))  # it may have been replaced since
        return os.fdopen(fd, "rb", closefd=True)
    except BaseException:
        os.close(fd)
        raise


def read_plain(path: Path) -> bytes:
    """Return the bytes of a regular file; raise `OSError` as `open_plain` does."""
    with open_plain(path) as file:
        return file.read()


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is no file", os.fspath(path))
