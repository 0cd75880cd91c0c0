"""Output of a run that outlives its reader: a closed pipe, a gone terminal or a full disk must not end training."""

from __future__ import annotations

import errno
import io
import os
from typing import IO, TextIO, cast

# The reader has gone for good: a closed pipe, a terminal that was closed.
GONE = (errno.EPIPE, errno.EIO)


class LastingStream(io.TextIOBase):
    """A text stream that writes to another one and loses what that one cannot take.

    `rftfm train | head` closes its pipe after ten lines. From then on whatever is written to its descriptor, also by
    Ray and at the interpreter's end, goes to the null device.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # an attribute there; here it follows a stream
        """Encoding of the other stream."""
        return self._stream.encoding

    def write(self, text: str, /) -> int:
        """Write what the other stream can take; the length of the text in any case."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Flush the other stream, if it can take what it has."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def isatty(self) -> bool:
        """Whether the other stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Descriptor of the other stream."""
        return self._stream.fileno()

    def _lose(self, error: OSError) -> None:
        if error.errno not in GONE:
            return
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


def lasting(stream: TextIO) -> IO[str]:
    """The stream for a console or a `print` that must not raise."""
    return cast("IO[str]", LastingStream(stream))
