"""Borg's exceptions, and the operating system's, as ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from borg.cache import Cache
from borg.crypto.file_integrity import FileIntegrityError
from borg.crypto.key import (
    KeyfileInvalidError,
    KeyfileMismatchError,
    KeyfileNotFoundError,
    NoPassphraseFailure,
    PasscommandFailure,
    PassphraseWrong,
    PasswordRetriesExceeded,
    RepoKeyNotFoundError,
)
from borg.crypto.low_level import CryptoError
from borg.helpers import Error as BorgError
from borg.helpers import IntegrityError
from borg.helpers.manifest import NoManifestError
from borg.helpers.msgpack import UnpackException
from borg.locking import LockError, LockErrorT, LockFailed, LockTimeout
from borg.remote import (
    ConnectionBrokenWithHint,
    ConnectionClosed,
    InvalidRPCMethod,
    PathNotAllowed,
    RemoteRepository,
    UnexpectedRPCDataFormatFromServer,
)
from borg.repository import Repository

from vmconsole.borg.settings import BorgSettings
from vmconsole.errors import (
    RepositoryDamaged,
    RepositoryError,
    RepositoryFull,
    RepositoryLocked,
    RepositoryMissing,
    VmconsoleError,
    WrongPassphrase,
)

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_SPACE_WORDS = ("No space left", "Disk quota exceeded", "Errno 28", "Errno 122")
_MISSING = (Repository.DoesNotExist, Repository.InvalidRepository, Repository.ParentPathDoesNotExist)
_NO_KEY = (KeyfileNotFoundError, RepoKeyNotFoundError, KeyfileMismatchError, KeyfileInvalidError)
_PASSPHRASE = (PassphraseWrong, NoPassphraseFailure, PasswordRetriesExceeded, PasscommandFailure)
_FULL = (Repository.InsufficientFreeSpaceError, Repository.StorageQuotaExceeded)
_DAMAGED = (
    Repository.CheckNeeded,
    Repository.ObjectNotFound,
    Repository.InvalidRepositoryConfig,
    IntegrityError,
    FileIntegrityError,
    CryptoError,
    NoManifestError,
    UnpackException,
    Cache.RepositoryIDNotUnique,
    Cache.RepositoryReplay,
    Cache.EncryptionMethodMismatch,
)
_CONNECTION = (ConnectionClosed, ConnectionBrokenWithHint, UnexpectedRPCDataFormatFromServer, BrokenPipeError)
_DENIED = (PathNotAllowed, Repository.PathPermissionDenied, PermissionError)
_OUTDATED = (InvalidRPCMethod, RemoteRepository.RPCServerOutdated)


@contextmanager
def translated(settings: BorgSettings, said: Sequence[str] = ()) -> Iterator[None]:
    """Raise what a block raises as one of ours. said: the last lines Borg or ssh said."""
    try:
        yield
    except VmconsoleError:
        raise
    except Exception as error:
        ours = translate(error, settings, said)
        if ours is error:
            raise
        raise ours from error


def translate(error: Exception, settings: BorgSettings, said: Sequence[str] = ()) -> Exception:
    """Our error for one of Borg's; the same one when it is a bug and none of Borg's."""
    name, where = settings.name, settings.target
    text = error.get_message() if isinstance(error, RemoteRepository.RPCError) else str(error)
    if isinstance(error, _FULL) or is_no_space(error, text):
        return RepositoryFull(
            f"Repository {name} is full: {text}",
            hint="Earlier restore points are untouched. Free space or raise the quota there; "
            f"old archives go with `borg prune` and then `borg compact {where}`.",
            subject=name,
        )
    if isinstance(error, _MISSING):
        return RepositoryMissing(
            f"There is no Borg repository at {where}.",
            hint=f"Is it mounted, is the path right? A new one is made with: vmconsole repo init {name}",
            subject=name,
        )
    if isinstance(error, _PASSPHRASE):
        return WrongPassphrase(
            f"The passphrase of repository {name} does not open its key.",
            hint="Check the passphrase that the configuration names for it.",
            subject=name,
        )
    if isinstance(error, _NO_KEY):
        return RepositoryError(
            f"The key of repository {name} was not found: {text}",
            hint=f"Bring it back from its export: borg key import {where} KEYFILE",
            subject=name,
        )
    if isinstance(error, (LockTimeout, LockError)) and not isinstance(error, LockErrorT):
        return locked(settings, "")
    if isinstance(error, (LockFailed, *_DENIED)):
        return RepositoryError(
            f"Repository {name} cannot be written or read: {text}",
            hint=f"Check who owns {where} and whether it is mounted read-only.",
            subject=name,
        )
    if isinstance(error, LockErrorT) or (isinstance(error, AssertionError) and _NO_LOCK in text):
        return lock_lost(settings)
    if isinstance(error, _DAMAGED):
        return RepositoryDamaged(
            f"Repository {name} is damaged: {text}", hint=f"Look closer: borg check {where}", subject=name
        )
    if isinstance(error, _CONNECTION):
        return disconnected(settings, text, said)
    if isinstance(error, _OUTDATED):
        return RepositoryError(
            f"The borg at the other side of repository {name} is too old: {text}",
            hint="Install borgbackup 1.4 there, or point remote_path at a newer one.",
            subject=name,
        )
    if isinstance(error, OSError) or type(error) is Exception or isinstance(error, _REST):
        return RepositoryError(
            f"Repository {name}: {text}", hint=f"Look closer: borg info {where}", subject=name
        )
    return error


_NO_LOCK = "exclusive lock should exist"
_REST = (BorgError, RemoteRepository.RPCError)


def is_no_space(error: BaseException, text: str = "") -> bool:
    """Whether the storage is full. A remote borg tells only in words."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return True
    return isinstance(error, (RemoteRepository.RPCError, BorgError)) and any(
        word in text for word in _NO_SPACE_WORDS
    )


def disconnected(settings: BorgSettings, text: str, said: Sequence[str]) -> RepositoryError:
    """The connection to a remote repository could not be made, or is gone."""
    remote = [line.removeprefix("Remote: ") for line in said if line.startswith("Remote: ")]
    reason = remote[-1] if remote else text
    return RepositoryError(
        f"No connection to repository {settings.name}: {reason}",
        hint=f"Try it by hand: {settings.remote_shell} {_host(settings.location)} "
        f"{settings.remote_path or 'borg'} --version",
        subject=settings.name,
    )


def lock_lost(settings: BorgSettings) -> RepositoryLocked:
    """Our lock was there and is gone."""
    return RepositoryLocked(
        f"The lock of repository {settings.name} was taken away while it was in use.",
        hint="Somebody ran `borg break-lock` meanwhile. Nothing was committed; run the backup again.",
        subject=settings.name,
    )


def locked(settings: BorgSettings, owner: str) -> RepositoryLocked:
    """The lock was not to be had in time. owner: a phrase, empty when unknown."""
    return RepositoryLocked(
        f"Repository {settings.name} is locked by {owner or 'somebody else'}, "
        f"still after {settings.lock_wait:.0f} s.",
        hint=f"Wait for it to end. Only when nothing uses it any more: borg break-lock {settings.target}",
        subject=settings.name,
    )


def _host(location: str) -> str:
    user_host, _, _ = location.removeprefix("ssh://").partition("/")
    host, _, port = user_host.rpartition(":")
    return f"-p {port} {host}" if host and port.isdecimal() else user_host
