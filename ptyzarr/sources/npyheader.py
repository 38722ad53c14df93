"""The header of an npy array, parsed strictly and checked against the bytes that are there."""

from __future__ import annotations

import ast
import math
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from ptyzarr.errors import SourceError

MAGIC = b"\x93NUMPY"
HEADER_LIMIT = 10_000
"""Longest header text in bytes, as NumPy itself accepts."""

HEAD_LENGTH = len(MAGIC) + 6 + HEADER_LIMIT
"""Bytes that hold every acceptable header."""

_LENGTHS = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}
_MAX_DIMS = 32
_MAX_NBYTES = 2**63 - 1

_STRING = re.compile(r"""('(?:[^'\\\n]|\\['"\\nrtxuU])*'|"(?:[^"\\\n]|\\['"\\nrtxuU])*")""")
_PLAIN = re.compile(r"(?:[\s{}()\[\],:0-9-]|True|False|None)*")
_LONG_INTEGER = re.compile(r"(\d)L\b")  # as Python 2 wrote shapes
# Times without a divisor: NumPy never writes one, and divides by a zero there, which ends the
# process.
_SCALAR_DESCR = re.compile(r"[<>|=]?[?bBiufcSUVMmO][0-9]*(?:\[[0-9]*[A-Za-z]+\])?")


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What an npy header says.

    Attributes
    ----------
    dtype
        As stored, with its byte order.
    shape
        Of the array.
    is_fortran
        Whether the first index varies fastest in the file.
    raw
        The exact bytes from the magic to the newline.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool
    raw: bytes

    @property
    def length(self) -> int:
        """Bytes before the first element."""
        return len(self.raw)

    @property
    def native_dtype(self) -> np.dtype[Any]:
        """The dtype in the byte order of this machine."""
        return self.dtype.newbyteorder("=")

    @property
    def nbytes(self) -> int:
        """Size of the elements in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def parse_header(head: bytes, size: int, what: str) -> NpyHeader:
    """Return the header at the start of an npy member; nothing is allocated by what it says.

    Parameters
    ----------
    head
        The first bytes of the member, `HEAD_LENGTH` or all there are.
    size
        Size of the whole member in bytes.
    what
        File and member, for messages.

    Raises
    ------
    SourceError
        If the header is cut off, too long, no dictionary of literals with the three known keys,
        describes objects or a negative dimension, or if shape times item size is not exactly the
        rest of the member.

    References
    ----------
    NumPy enhancement proposal 1 and ``numpy.lib.format``, versions 1.0, 2.0 and 3.0.
    """
    raw, text = _split(head, what)
    fields = _parse_literals(text, what)
    dtype = _parse_dtype(fields["descr"], what)
    shape = _parse_shape(fields["shape"], dtype.itemsize, what)
    is_fortran = fields["fortran_order"]
    if not isinstance(is_fortran, bool):
        raise _refusal(what, f"fortran_order {is_fortran!r:.80}", "True or False")
    header = NpyHeader(dtype, shape, is_fortran, raw)
    if header.nbytes != size - header.length:
        raise _refusal(
            what,
            f"shape {shape} of {dtype.itemsize}-byte items, {header.nbytes} bytes",
            f"the {size - header.length} bytes that follow the header",
        )
    return header


def _refusal(what: str, found: str, expected: str) -> SourceError:
    return SourceError(
        f"{what}: the npy header has {found}; expected {expected}; the file is damaged or was "
        "not written by numpy.save"
    )


def _split(head: bytes, what: str) -> tuple[bytes, str]:
    version = (head[6], head[7]) if len(head) >= 8 else (0, 0)
    if version not in _LENGTHS:
        raise _refusal(what, f"version {version}", "version 1.0, 2.0 or 3.0")
    kind = struct.Struct(_LENGTHS[version])
    start = 8 + kind.size
    if len(head) < start:
        raise _refusal(what, f"{len(head)} bytes", f"{start} or more")
    (length,) = kind.unpack_from(head, 8)
    if length > HEADER_LIMIT:
        raise _refusal(what, f"{length} bytes", f"at most {HEADER_LIMIT}")
    if len(head) < start + length:
        raise _refusal(what, f"{len(head)} of {start + length} bytes", "all of them")
    try:
        text = head[start : start + length].decode("utf-8" if version == (3, 0) else "latin1")
    except UnicodeDecodeError as error:
        raise _refusal(what, "bytes that are no UTF-8", "text") from error
    return head[: start + length], text


def _parse_literals(text: str, what: str) -> dict[str, Any]:
    parts = _STRING.split(text)
    # Strings are the odd parts. The rest is held to what NumPy writes, so that the Python parser
    # never meets a name, an operator or a spelling that it would warn about.
    parts[::2] = [_LONG_INTEGER.sub(r"\1", part) for part in parts[::2]]
    if not all(_PLAIN.fullmatch(part) for part in parts[::2]):
        raise _refusal(what, f"the text {text[:80]!r}", "a dictionary of literals")
    try:
        fields = ast.literal_eval("".join(parts))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise _refusal(what, f"the text {text[:80]!r}", "a dictionary of literals") from error
    keys = {"descr", "fortran_order", "shape"}
    if not isinstance(fields, dict) or fields.keys() != keys:
        raise _refusal(what, f"the text {text[:80]!r}", f"a dictionary with {sorted(keys)}")
    return fields


def _parse_shape(shape: object, itemsize: int, what: str) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or any(type(length) is not int for length in shape):
        raise _refusal(what, f"shape {shape!r:.80}", "a tuple of integers")
    if len(shape) > _MAX_DIMS or any(length < 0 for length in shape):
        raise _refusal(what, f"shape {shape!r:.80}", f"at most {_MAX_DIMS} lengths of 0 or more")
    # NumPy counts no zero here either, so that the strides of an empty array fit too.
    if math.prod(length or 1 for length in shape) * (itemsize or 1) > _MAX_NBYTES:
        raise _refusal(what, f"shape {shape!r:.80}", "a size that an array can have")
    return shape


def _parse_dtype(descr: Any, what: str) -> np.dtype[Any]:
    if not _is_plain_descr(descr):
        raise _refusal(what, f"dtype {descr!r:.80}", "a dtype as NumPy writes it")
    try:
        dtype: np.dtype[Any] = npy_format.descr_to_dtype(descr)
    except (TypeError, ValueError, SyntaxError, LookupError, ArithmeticError) as error:
        raise _refusal(what, f"dtype {descr!r:.80}", "a dtype as NumPy writes it") from error
    if dtype.hasobject:
        raise SourceError(
            f"{what}: the array holds pickled Python objects, which are never loaded; expected "
            "numbers or text; write it again with a numeric dtype"
        )
    return dtype


def _is_plain_descr(descr: Any) -> bool:
    """Return whether `descr` is a scalar type or a list of named ones (no comma strings)."""
    if isinstance(descr, str):
        return _SCALAR_DESCR.fullmatch(descr) is not None
    return isinstance(descr, list) and all(
        isinstance(field, tuple) and len(field) in (2, 3) and _is_plain_descr(field[1])
        for field in descr
    )
