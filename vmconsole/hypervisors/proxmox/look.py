"""Reading files of a node in one command, by a small Perl program that stays in memory (look.pl).

Every answer says how long its parts are, so that no guest's configuration can pass for another's,
and begins with a token that is drawn for each command, so that noise before it is told apart.
"""

from __future__ import annotations

import importlib.resources
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from vmconsole.errors import ProtocolError
from vmconsole.remote.machine import Machine

TIMEOUT = 100.0


class Ask(Enum):
    """What look.pl can do. A pattern is one of Perl's glob()."""

    FILE = "file"
    FILES = "files"
    """Each file that a pattern matches."""
    IDENTITIES = "identities"
    """Of each file that a pattern matches, the lines with smbios1 and vmgenid."""
    PROCESS = "process"
    """`PID:START` of the process that a pid file names, empty when it does not run."""
    LOCK = "lock"
    """`held` when another process has the file locked by flock(2)."""
    SIZE = "size"
    """Bytes of a block device or file."""
    SPACE = "space"
    """Free blocks and their size, of the file system a folder is on."""
    HAVE = "have"
    """The folder a program is found in, empty when it is not installed."""


@dataclass(frozen=True, slots=True)
class Found:
    """One answer. name: a path, or what was asked about. error: why there is no data, or not all of it."""

    word: str
    name: str
    data: bytes
    error: str

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


def look(
    machine: Machine, questions: Iterable[tuple[Ask, str]], *, timeout: float = TIMEOUT, token: str = ""
) -> list[Found]:
    """Raises what Machine.run raises, and ProtocolError when the answer is not whole."""
    token = token or secrets.token_hex(16)
    words = [word for ask, about in questions for word in (ask.value, about)]
    source = importlib.resources.files(__package__).joinpath("look.pl").read_text(encoding="utf-8")
    done = machine.run(["perl", "-e", source, "--", token, *words], timeout=timeout)
    return split(done.stdout, token, machine.name)


def split(output: bytes, token: str, host: str) -> list[Found]:
    """Cut the output into answers; what stands before the first one is passed over."""
    pattern = re.compile(
        rb"^%b ([a-z]{1,12}) (\d{1,9}) (\d{1,9}) (\d{1,9})\n" % re.escape(token.encode()), re.M
    )
    found: list[Found] = []
    at = 0
    while match := pattern.search(output, at):
        lengths = [int(match[part]) for part in (2, 3, 4)]
        parts, at = [], match.end()
        for length in lengths:
            parts.append(output[at : at + length])
            at += length
        if output[at : at + 1] != b"\n":
            break
        name, data, error = parts
        if match[1] == b"end":
            return found
        found.append(Found(match[1].decode(), _text(name), data, _text(error)))
    raise ProtocolError(
        f"{host} stopped in the middle of answering." if found else f"{host} did not answer as expected.",
        hint=f"Does `ssh {host} perl -e 1` work and print nothing?",
        subject=host,
    )


def free_bytes(text: str) -> int:
    """From `stat -f -c '%a %S'`: blocks free for users, bytes per block. -1 when it does not say."""
    words = text.split()
    if len(words) == 2 and all(re.fullmatch(r"[0-9]{1,18}", word) for word in words):
        return int(words[0]) * int(words[1])
    return -1


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
