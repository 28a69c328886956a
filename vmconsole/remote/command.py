"""What running a program has in common here and over SSH: words for messages, and the verdict."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from vmconsole.errors import CommandFailed, ToolMissing
from vmconsole.remote.machine import Completed

MAX_STDERR = 1024 * 1024
"""Bytes of standard error that are kept, the last ones: they tell how it ended. The rest is dropped."""

_MAX_SHOWN = 120
_MAX_COMPLAINT = 400
_NOT_FOUND = 127


def printable(text: str) -> str:
    """The text with control characters shown as escapes, so that a terminal never acts on them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def keep_errors(kept: bytearray, data: bytes) -> None:
    """Add to what is kept of standard error."""
    kept += data
    if len(kept) > MAX_STDERR:
        del kept[:-MAX_STDERR]


def shown(argv: Sequence[str]) -> str:
    """A command for a message: quoted, on one line, shortened."""
    line = printable(shlex.join(argv))
    return line if len(line) <= _MAX_SHOWN else line[: _MAX_SHOWN - 1] + "…"


def complaint(stderr: bytes) -> str:
    """What a program had to say: the end of its standard error, on one line, shortened."""
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    line = printable("; ".join(lines[-3:]))
    return line if len(line) <= _MAX_COMPLAINT else "…" + line[-_MAX_COMPLAINT + 1 :]


def encode(argv: Sequence[str]) -> list[bytes]:
    """The arguments as bytes. Raises ValueError for one that no program can be given."""
    if not argv:
        raise ValueError("a command needs at least the program's name")
    encoded = [argument.encode("utf-8", "surrogateescape") for argument in argv]
    if any(b"\0" in argument for argument in encoded):
        raise ValueError(f"an argument of {shown(argv)} contains a NUL byte")
    return encoded


def verdict(
    completed: Completed, argv: Sequence[str], machine: str, *, check: bool, script: bool
) -> Completed:
    """The result itself, or the error its status stands for."""
    if completed.status == _NOT_FOUND and (check or not script):
        raise _missing(completed, argv, machine, script=script)
    if check and completed.status != 0:
        reason = complaint(completed.stderr) or "it gave no reason"
        raise CommandFailed(
            f"{shown(argv)} on {machine} ended with {_status(completed.status)}: {reason}",
            subject=machine,
            exit_status=completed.status,
            stderr=completed.errors,
        )
    return completed


def timed_out(argv: Sequence[str], machine: str, seconds: float, stderr: bytes) -> CommandFailed:
    said = complaint(stderr)
    return CommandFailed(
        f"{shown(argv)} on {machine} did not end within {seconds:g} s" + (f": {said}" if said else ""),
        hint="Run the command there by hand to see what it waits for.",
        subject=machine,
        stderr=stderr.decode("utf-8", "replace"),
    )


def too_much_output(argv: Sequence[str], machine: str, limit: int) -> CommandFailed:
    return CommandFailed(
        f"{shown(argv)} on {machine} wrote more than the {limit} bytes that are accepted", subject=machine
    )


def _status(status: int) -> str:
    return f"status {status}" if status < 128 else f"status {status} (signal {status - 128})"


def _missing(completed: Completed, argv: Sequence[str], machine: str, *, script: bool) -> ToolMissing:
    if script:
        said = complaint(completed.stderr) or "the script ended with 127"
        return ToolMissing(
            f"A program is missing on {machine}: {said}",
            hint="Install it there.",
            subject=machine,
        )
    name = printable(argv[0])
    return ToolMissing(
        f"{name} is not installed on {machine}", hint=f"Install {name} there.", subject=machine
    )
