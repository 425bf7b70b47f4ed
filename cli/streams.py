"""Standard output and error of the command line; each may be a pipe, a full disk or a Latin-1 terminal."""

import codecs
import errno
import os
import sys
from contextlib import suppress
from typing import Final

from domain.errors import LedgerlineError

_STREAM_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENXIO, errno.EBADF})
_ENCODING_ERRORS: Final = "ledgerline"
_PLAIN_FORMS: Final = {"●": "*", "✓": "+", "✗": "x", "·": "-", "…": "...", "—": "-", "–": "-", "’": "'"}


class ClosedOutputError(LedgerlineError):
    """The command was started without standard output, so its answer would be lost."""


def prepare_streams() -> None:
    """Make standard output and error accept every character; raise ClosedOutputError if standard output is closed.

    Closed descriptors are opened on /dev/null: otherwise the next socket would get such a number, and all that is
    written to standard output or error would go to that socket.
    """
    for number in (0, 1, 2):
        if not _is_open(number):
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    codecs.register_error(_ENCODING_ERRORS, _write_as_the_stream_can)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_ENCODING_ERRORS)
    if sys.stdout is None:
        raise ClosedOutputError("Standard output is closed: redirect it to a file or to /dev/null.")


def find_stream_trouble(error: Exception) -> str | None:
    """Return why standard output or error cannot be written, such as a full disk; None for any other error.

    An error of a file that a command opens itself has a file name, or the command reports it.
    """
    if isinstance(error, OSError) and error.errno in _STREAM_ERRORS and error.filename is None:
        return os.strerror(error.errno)
    return None


def drop_output() -> None:
    """Flush the output; if that fails, send the rest to /dev/null, so that the interpreter's last flush works."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError, ValueError):  # a stream without a descriptor has no last flush either
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _write_as_the_stream_can(error: UnicodeError) -> tuple[str, int]:
    """Return a replacement for characters that the encoding lacks: a plain form of our signs, else their numbers."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = (_PLAIN_FORMS.get(sign) or sign.encode("ascii", "backslashreplace").decode("ascii") for sign in lacking)
    return "".join(plain), error.end
