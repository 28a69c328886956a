"""The error tree, exit codes and hints.

Classes say what the reader can do, not where the error arose:

    VmconsoleError                  1   base: message, hint, subject
    ├── UsageError                  2   the command or its arguments
    │   ├── ConfigError             2   the configuration file: file, line, field, remedy
    │   ├── GuestNotFound           2   no such guest, or an ambiguous name
    │   └── PointNotFound           2   no such restore point, or an ambiguous name
    ├── RepositoryError             1   the Borg repository
    │   ├── RepositoryMissing      10
    │   ├── RepositoryLocked       11
    │   ├── WrongPassphrase        12
    │   ├── RepositoryFull          1
    │   └── RepositoryDamaged       1
    ├── HostError                   1   a hypervisor host
    │   ├── HostUnreachable        20   network, timeout, authentication
    │   │   └── HostKeyChanged     20   the host key is unknown or differs from the trusted one
    │   ├── CommandFailed           1   a program on the host ended with an error
    │   ├── ToolMissing             1
    │   └── NotPermitted            1
    ├── ProtocolError               1   a peer broke its protocol (NBD, XML, JSON)
    ├── BackupFailed                1   a guest could not be backed up
    │   ├── GuestBusy               1   another job or tool holds the guest
    │   ├── GuestStopped            1   the guest powered off while it was read
    │   ├── ParentUnusable          1   the increment's parent cannot be built upon; read in full
    │   └── OutOfSpace              1   scratch space on the host
    ├── RestoreFailed               1
    │   └── GuestExists             1   a restore never overwrites
    └── Cancelled                 130

Anything else that escapes is a bug and exits 70.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_WARNINGS = 3
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130


class VmconsoleError(Exception):
    """Something the user can act on.

    message: one sentence: what, and which. hint: what to do next, may be empty.
    subject: the host, guest, repository or file it is about, may be empty.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str = "", subject: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.subject = subject

    def __str__(self) -> str:
        return self.message

    @property
    def code(self) -> str:
        """A stable name for scripts: the class name."""
        return type(self).__name__

    def as_json(self) -> dict[str, object]:
        return {
            "error": self.code,
            "message": self.message,
            "hint": self.hint,
            "subject": self.subject,
            "exit_code": self.exit_code,
        }


class UsageError(VmconsoleError):
    """The command or its arguments cannot be carried out as given."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """The configuration file is wrong; the message names file, line and field."""


class GuestNotFound(UsageError):
    """No guest, or more than one, answers to that name."""


class PointNotFound(UsageError):
    """No restore point, or more than one, answers to that name."""


class PathNotFound(UsageError):
    """A restore point has no such file or folder."""


class RepositoryError(VmconsoleError):
    """The Borg repository."""


class RepositoryMissing(RepositoryError):
    """There is no repository at that place."""

    exit_code = 10


class RepositoryLocked(RepositoryError):
    """Somebody else holds the repository's lock."""

    exit_code = 11


class WrongPassphrase(RepositoryError):
    """The passphrase does not open the repository's key."""

    exit_code = 12


class RepositoryFull(RepositoryError):
    """No space, or the storage quota is used up, where the repository lives."""


class RepositoryDamaged(RepositoryError):
    """The repository fails a check, or an archive misses what it refers to."""


class ArchivesVanished(RepositoryError):
    """Restore points are gone that nobody here deleted; nothing that frees space is done until that is accepted."""


class HostError(VmconsoleError):
    """A hypervisor host."""


class HostUnreachable(HostError):
    """No connection: network, timeout, authentication."""

    exit_code = 20


class HostKeyChanged(HostUnreachable):
    """The host's key is unknown, or is not the one that was trusted."""


class CommandFailed(HostError):
    """A program on the host ended with an error."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        subject: str = "",
        exit_status: int = -1,
        stderr: str = "",
    ) -> None:
        super().__init__(message, hint=hint, subject=subject)
        self.exit_status = exit_status
        self.stderr = stderr


class ToolMissing(HostError):
    """A program that is needed is not installed."""


class NotPermitted(HostError):
    """The login user may not do this on the host."""


class ProtocolError(VmconsoleError):
    """A peer broke its protocol; nothing it said after that is used."""


class BackupFailed(VmconsoleError):
    """A guest could not be backed up; earlier restore points are untouched."""


class GuestBusy(BackupFailed):
    """Another job or another tool holds the guest."""


class NotTogether(BackupFailed):
    """Guests that were to be cut at the same moment could not be; none was."""


class GuestStopped(BackupFailed):
    """The guest powered off while it was being read."""


class ParentUnusable(BackupFailed):
    """The restore point an increment would build upon is gone, damaged, or cut differently."""


class OutOfSpace(BackupFailed):
    """Scratch space on the host would not, or did not, last."""


class RestoreFailed(VmconsoleError):
    """A restore could not be carried out."""


class FilesUnreadable(RestoreFailed):
    """A file system inside a disk cannot be read: it is damaged, or of a kind that is not known."""


class GuestExists(RestoreFailed):
    """A guest or file of that name is already there; a restore never overwrites."""


class Cancelled(VmconsoleError):
    """The user, or a signal, stopped the work; everything was cleaned up."""

    exit_code = EXIT_INTERRUPTED
