"""A restoring program on a node (qmrestore, pct restore), fed through SSH. receive.pl is its other end."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from vmconsole.errors import HostError, HostUnreachable, RestoreFailed
from vmconsole.hypervisors.proxmox.api import reason
from vmconsole.interfaces import Cancel
from vmconsole.remote.machine import Completed, Machine, Process

SILENCE_SECONDS = 3600
"""How long the node waits for the next bytes; the repository may be slow, or a person asked."""
GRACE_SECONDS = 60
"""For the program to clean up after a broken stream; three times as long in the worst case."""
ABORT_SECONDS = 3.0 * GRACE_SECONDS + 20.0

_HEAD = struct.Struct(">I")
_END = _HEAD.pack(0)
_GATHER = 256 * 1024
"""Bytes that are sent together: a packet costs more than what is in it."""
_LARGEST = 4 * 1024 * 1024
_LOOK_SECONDS = 1.0
_ENDED = re.compile(r"^@ ended (\d{1,3})$", re.MULTILINE)


class Receiver:
    """The running program. write() blocks while it does not keep up; nothing is kept here but one piece."""

    def __init__(self, machine: Machine, argv: Sequence[str], what: str) -> None:
        """what: its name in messages. Raises what Machine.start raises."""
        self._machine = machine
        self._what = what
        self._pending: list[bytes] = []
        self._size = 0
        self._result: Completed | None = None
        self._process: Process = machine.start(
            ["perl", "-e", _program(), "--", str(SILENCE_SECONDS), str(GRACE_SECONDS), *argv]
        )

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Raises RestoreFailed with what the program said when it has given up, HostUnreachable."""
        self._pending.append(bytes(data))
        self._size += len(self._pending[-1])
        if self._size >= _GATHER:
            self.flush()

    def finish(self, cancel: Cancel) -> None:
        """End the stream and wait for the program. Raises RestoreFailed, Cancelled, HostUnreachable."""
        self.flush()
        self._send(_END)
        while self._result is None:
            cancel.check()
            try:
                self._result = self._process.wait(_LOOK_SECONDS)
            except TimeoutError:
                continue
        self._process.close()
        self._judge(self._result)

    def abort(self) -> None:
        """Break the stream off and wait until the program has cleaned up. Never raises."""
        try:
            if self._result is None:
                self._process.close_stdin()
                self._result = self._process.wait(ABORT_SECONDS)
        except (HostError, TimeoutError, OSError):
            return  # the node goes on by itself
        finally:
            self._process.close()

    def flush(self) -> None:
        """Send what is gathered: qmrestore gives the header of an archive a minute."""
        pieces, size = self._pending, self._size
        self._pending, self._size = [], 0
        if size > _LARGEST:
            view = memoryview(b"".join(pieces))
            for at in range(0, size, _LARGEST):
                self._send(b"".join([_HEAD.pack(len(view[at : at + _LARGEST])), view[at : at + _LARGEST]]))
        elif size:
            self._send(b"".join([_HEAD.pack(size), *pieces]))

    def _send(self, data: bytes) -> None:
        try:
            self._process.write(data)
        except HostUnreachable:
            # Has the connection ended, or only the program?
            try:
                self._result = self._process.wait(GRACE_SECONDS)
            except (HostError, TimeoutError, OSError):
                self._result = None
            if self._result is None:
                raise
            self._judge(self._result, early=True)

    def _judge(self, result: Completed, *, early: bool = False) -> None:
        text = result.text
        found = _ENDED.search(text)
        if found and int(found[1]) == 0 and not early:
            return
        said = reason(_last_lines(text[found.end() :])) if found else result.errors[:400]
        status = f"status {found[1]}" if found else "no word about how"
        raise RestoreFailed(
            f"{self._what} on {self._machine.name} ended with {status}: {said or 'it gave no reason'}",
            hint="Look at the task log of the node; then restore again, to another storage if that one is full.",
            subject=self._machine.name,
        )


def _last_lines(text: str) -> str:
    """Errors come last, after a line for each percent."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("progress ")]
    return "\n".join(line[:200] for line in lines[-4:])


@cache
def _program() -> str:
    return files("vmconsole.hypervisors.proxmox").joinpath("receive.pl").read_text("utf-8")
