"""Standard output and error that never break the work they report on."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TextIO


class Sturdy:
    """A text stream whose writes never raise.

    A reader may go away (`… | head`), a disk fill up, a terminal close: a backup must not end because
    nobody listens any more. After the first failed write the stream is silent; lost says why.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """stream: None when the process was started without one."""
        self._stream = stream
        self.lost: Exception | None = None
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # a name in letters that the terminal's encoding lacks is shown as an escape
            reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        if self._stream is not None and self.lost is None:
            try:
                self._stream.write(text)
            except (OSError, ValueError) as error:
                self.lost = error
        return len(text)

    def put(self, content: bytes) -> None:
        """Bytes as they are, after the text that came before."""
        self.flush()
        if self._stream is not None and self.lost is None:
            try:
                self._stream.buffer.write(content)
            except (OSError, ValueError) as error:
                self.lost = error

    def flush(self) -> None:
        if self._stream is not None and self.lost is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self.lost = error

    def isatty(self) -> bool:
        if self._stream is None:
            return False
        try:
            return self._stream.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("there is no such stream")
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def reader_left(self) -> bool:
        """Lost because whoever read it has what he wanted."""
        return isinstance(self.lost, BrokenPipeError)

    def settle(self) -> None:
        """Flush; a lost stream is pointed elsewhere, lest the interpreter complains about it at exit."""
        self.flush()
        if self.lost is not None:
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.fileno())
                os.close(nowhere)


def open_missing() -> None:
    """Open /dev/null for each standard stream the process was started without.

    Otherwise the next file that is opened, our database maybe, becomes standard output.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
