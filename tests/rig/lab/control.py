"""Commands in a guest without its agent: over the second serial port.

It goes on working while the agent hangs, is absent or has frozen the file systems, it holds none of
libvirt's locks, and it is several times as fast as guest-exec.
"""

from __future__ import annotations

import itertools
import os
import select
import time
import tty
from pathlib import Path


class GuestCommandError(AssertionError):
    """A command in a guest failed; shown as a failed assertion with its words."""


class GuestSilent(AssertionError):
    """The guest did not answer on its serial line in time."""


class Control:
    """The host's end of the line. path: the pseudo-terminal that QEMU opened for serial port 1."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        tty.setraw(self._fd)
        self._buffer = b""
        # Another session may have asked before us on this line, and its answers may still come.
        self._numbers = (f"{os.urandom(4).hex()}{number:x}" for number in itertools.count())

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def ended(self) -> bool:
        """Whether the QEMU at the other end is gone."""
        poll = select.poll()
        poll.register(self._fd, 0)
        return bool(poll.poll(0))

    def run(self, command: str, *, check: bool = True, timeout: float = 30.0) -> str:
        """Output (stdout and stderr) of a shell command in the guest.

        Raises GuestCommandError (check, and a status other than 0), GuestSilent. A command that hangs
        keeps running in the guest; the line stays usable.
        """
        if "\n" in command:
            raise ValueError("one line, please: the control line is line by line")
        number = next(self._numbers)
        deadline = time.monotonic() + timeout
        self._send(f"{number} {command}\n".encode(), deadline, command)
        while True:
            words = self._line(deadline, command).decode("ascii", "replace").split(" ")
            if len(words) == 3 and words[0] == number:
                break
        status, output = int(words[1]), bytes.fromhex(words[2]).decode("utf-8", "replace")
        if check and status:
            raise GuestCommandError(f"in the guest: {command}: status {status}: {output.strip()}")
        return output

    def _send(self, data: bytes, deadline: float, command: str) -> None:
        while data:
            self._await(select.POLLOUT, deadline, command)
            data = data[os.write(self._fd, data) :]

    def _line(self, deadline: float, command: str) -> bytes:
        while b"\n" not in self._buffer:
            self._await(select.POLLIN, deadline, command)
            try:
                self._buffer += os.read(self._fd, 65536)
            except BlockingIOError:
                continue
            except OSError as error:
                raise GuestSilent(f"in the guest: {command}: the guest is gone ({error.strerror})") from None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _await(self, event: int, deadline: float, command: str) -> None:
        poll = select.poll()
        poll.register(self._fd, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise GuestSilent(f"in the guest: {command}: no answer in time")
