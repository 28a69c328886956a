"""Who a process is, so that a number that was given out again is never mistaken for it.

An identity is `HOSTNAME:PID:START`; START is field 22 of /proc/PID/stat (clock ticks since boot,
proc(5)).
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path


def identity(pid: int | None = None) -> str:
    """The identity of a process of this machine, by default our own. Raises ProcessLookupError."""
    number = os.getpid() if pid is None else pid
    ticks, state = _stat(number)
    if state in "ZX":
        raise ProcessLookupError(f"process {number} has ended")
    return f"{socket.gethostname()}:{number}:{ticks}"


def is_dead(process: str) -> bool:
    """True only when it is proven: it ran on this host, and is gone or its number has a new owner.

    Another host, or anything that cannot be read, proves nothing.
    """
    parsed = _parse(process)
    if parsed is None:
        return False
    pid, ticks = parsed
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    try:
        now, state = _stat(pid)
    except (OSError, ValueError):
        return False
    return now != ticks or state in "ZX"


def terminate(process: str) -> bool:
    """Send SIGTERM to exactly this process. False when it is not proven to be running here."""
    parsed = _parse(process)
    if parsed is None:
        return False
    pid, ticks = parsed
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        now, state = _stat(pid)
        if now != ticks or state in "ZX":
            return False
        signal.pidfd_send_signal(handle, signal.SIGTERM)
    except (OSError, ValueError):
        return False
    finally:
        os.close(handle)
    return True


def _parse(process: str) -> tuple[int, int] | None:
    """PID and START of an identity of this host."""
    host, _, rest = process.partition(":")
    pid, _, ticks = rest.partition(":")
    if host != socket.gethostname() or not _is_number(pid) or not _is_number(ticks) or int(pid) < 1:
        return None
    return int(pid), int(ticks)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _stat(pid: int) -> tuple[int, str]:
    """Start time in ticks, and state. The name in parentheses may hold anything, also parentheses."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError as error:
        raise ProcessLookupError(f"no process {pid}") from error
    fields = line.rpartition(")")[2].split()
    return int(fields[19]), fields[0]
