"""How one Borg repository is reached and written."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vmconsole.errors import ConfigError

MIB = 1024 * 1024
UNENCRYPTED = frozenset({"none", "authenticated", "authenticated-blake2"})
ENCRYPTIONS = UNENCRYPTED | {"repokey", "repokey-blake2", "keyfile", "keyfile-blake2"}
MIN_CHUNK = 4096
MAX_CHUNK = 16 * MIB
"""Borg stores objects of less than 20 MiB; this leaves room for what encryption and compression add."""
DEFAULT_RSH = "ssh -oBatchMode=yes -oServerAliveInterval=10 -oServerAliveCountMax=30"
"""Never asks anything, and notices within five minutes that the other side is gone."""

# A name that begins with a dash would be an option to ssh.
_SSH_LOCATION = re.compile(
    r"ssh://(?:(?!-)[^@:/\s]+@)?(?:(?!-)[^@:/\s\[\]]+|\[[0-9a-fA-F:.]+\])(?::\d+)?(?P<path>/[^\s].*)"
)


@dataclass(frozen=True, slots=True)
class BorgSettings:
    """One repository. lock_wait in seconds, chunk_size in bytes.

    location: a folder, or `ssh://user@host:port/path`. passphrase: called each time the key is
    opened; None means none is configured, and what BORG_PASSPHRASE or BORG_PASSCOMMAND say counts.
    compression: as `borg create --compression`. rsh, remote_path: as Borg's options of that name.
    Raises ConfigError when a value cannot work.
    """

    name: str
    location: str
    passphrase: Callable[[], str | None] = field(repr=False)
    encryption: str = "repokey-blake2"
    compression: str = "zstd,3"
    chunk_size: int = MIB
    lock_wait: float = 3600.0
    borg: str = ""
    rsh: str = ""
    remote_path: str = ""

    def __post_init__(self) -> None:
        if self.encryption not in ENCRYPTIONS:
            raise self._wrong(
                f"encryption {self.encryption!r}", f"Use one of {', '.join(sorted(ENCRYPTIONS))}."
            )
        if not MIN_CHUNK <= self.chunk_size <= MAX_CHUNK or self.chunk_size % 512:
            raise self._wrong(
                f"chunk size {self.chunk_size}",
                "Use a multiple of 512 between 4 KiB and 16 MiB; 1 MiB is good.",
            )
        remote = _SSH_LOCATION.fullmatch(self.location) if self.is_remote else None
        if self.is_remote and remote is None:
            raise self._wrong(f"location {self.location!r}", "Write it as ssh://user@host:port/path.")
        path = remote["path"] if remote else self.location
        if "::" in path or any(character in path for character in "{}\n\0"):
            raise self._wrong(f"location {self.location!r}", "`::`, `{` and `}` mean something else to Borg.")
        if not self.is_remote and not self.path.is_absolute():
            raise self._wrong(
                f"location {self.location!r}", "Write an absolute path, or ssh://user@host:port/path."
            )

    def _wrong(self, what: str, hint: str) -> ConfigError:
        return ConfigError(f"Repository {self.name}: {what} cannot be used.", hint=hint, subject=self.name)

    @property
    def is_remote(self) -> bool:
        return self.location.startswith("ssh://")

    @property
    def path(self) -> Path:
        """The folder of a local repository."""
        return Path(self.location.removeprefix("file://")).expanduser()

    @property
    def target(self) -> str:
        """The location as Borg is told it."""
        return self.location if self.is_remote else str(self.path)

    @property
    def may_be_unencrypted(self) -> bool:
        return self.encryption in UNENCRYPTED

    @property
    def remote_shell(self) -> str:
        """What reaches the other machine: as configured, else BORG_RSH, else ssh without questions."""
        return self.rsh or os.environ.get("BORG_RSH") or DEFAULT_RSH

    @property
    def executable(self) -> str:
        """The borg command: as configured, else the one beside this Python, else the one on PATH."""
        if self.borg:
            return self.borg
        beside = Path(sys.executable).parent / "borg"
        return str(beside) if beside.exists() else shutil.which("borg") or "borg"
