"""Opening a repository through Borg's modules, and reading objects from it."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from borg.cache import assert_secure
from borg.crypto.key import (
    AuthenticatedKeyBase,
    KeyfileKeyBase,
    Passphrase,
    PassphraseWrong,
    PlaintextKey,
    identify_key,
)
from borg.helpers import Manifest

from vmconsole.borg.engine import quiet
from vmconsole.borg.engine.codec import Codec
from vmconsole.borg.engine.connecting import connect, shut
from vmconsole.borg.engine.sealing import Sealer
from vmconsole.borg.engine.translate import translated
from vmconsole.borg.settings import BorgSettings
from vmconsole.errors import RepositoryError

_log = logging.getLogger("vmconsole.borg")

BATCH = 32
"""Objects asked for at once; a remote repository answers them in one round trip."""
CACHE_LOCK_WAIT = 5.0


@dataclass(slots=True)
class Access:
    """An open repository. repository, key and manifest are Borg's and only used inside locked()."""

    settings: BorgSettings
    repository: Any
    key: Any
    manifest: Any
    codec: Codec
    sealer: Sealer
    said: deque[str]
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Use Borg's objects, alone. Raises our errors."""
        with self._lock, quiet.listening(self.said.append), translated(self.settings, self.said):
            yield

    def fetch(self, ids: Sequence[bytes]) -> list[bytes]:
        """The chunks of these ids, decrypted, decompressed, and checked against their ids."""
        with self.locked():
            stored = list(self.repository.get_many(ids))
        with translated(self.settings, self.said):
            return [
                self.codec.verified(id_, self.sealer.unseal(id_, item))
                for id_, item in zip(ids, stored, strict=True)
            ]

    def drop_uncommitted(self) -> None:
        """Remove what a killed writer left. Borg would too, but only after it wrote to a disk maybe full."""
        if not self.settings.is_remote:
            with self.locked():
                self.repository.io.cleanup(self.repository.get_transaction_id())

    def close(self, *, clean: bool = True) -> None:
        """Close and unlock. Not clean: something is uncommitted, and is dropped. Never raises."""
        with self._lock, quiet.listening(self.said.append):
            try:
                shut(self.repository, clean=clean)
            except Exception as error:  # noqa: BLE001 - there is nobody left who could do better
                _log.warning("repository %s did not close cleanly: %s", self.settings.name, error)


def place_of(settings: BorgSettings) -> str:
    """What names the repository within this process."""
    return settings.location if settings.is_remote else os.path.realpath(settings.path)


def open_access(settings: BorgSettings, *, exclusive: bool, lock_wait: float) -> Access:
    """Open once, waiting at most lock_wait seconds for the lock.

    Raises RepositoryMissing, RepositoryLocked, WrongPassphrase, RepositoryDamaged, RepositoryError.
    """
    quiet.prepare()
    said: deque[str] = deque(maxlen=50)
    with quiet.listening(said.append), translated(settings, said):
        repository = connect(settings, exclusive=exclusive, lock_wait=lock_wait)
        try:
            key = load_key(repository, settings)
            codec = Codec(key, settings.compression)
            operations = (Manifest.Operation.WRITE, Manifest.Operation.READ)
            manifest, _ = Manifest.load(repository, operations if exclusive else operations[1:], key=key)
            if not exclusive:
                assert_secure(repository, manifest, CACHE_LOCK_WAIT)
            return Access(settings, repository, key, manifest, codec, Sealer(key, codec), said)
        except BaseException:
            shut(repository, clean=False)
            raise


def load_key(repository: Any, settings: BorgSettings) -> Any:
    """The repository's key, without a prompt and without the passphrase in any environment.

    Does what Borg's key classes do in detect(), which look for it in os.environ and then ask.
    Raises RepositoryError when the repository is not encrypted although the settings say so: an
    attacker who swaps the storage must not get the data in the clear.
    """
    envelope = repository.get(Manifest.MANIFEST_ID)
    kind = identify_key(envelope)
    if issubclass(kind, (PlaintextKey, AuthenticatedKeyBase)) and not settings.may_be_unencrypted:
        raise RepositoryError(
            f"Repository {settings.name} is not encrypted ({kind.ARG_NAME}), but the configuration says "
            f"{settings.encryption}.",
            hint=f'If that is meant, set encryption = "{kind.ARG_NAME}"; else it was swapped.',
            subject=settings.name,
        )
    if not issubclass(kind, KeyfileKeyBase):
        return kind(repository)
    key = kind(repository)
    configured = settings.passphrase()
    passphrase = Passphrase.env_passphrase() if configured is None else Passphrase(configured)
    if not key.load(key.find_key(), passphrase if passphrase is not None else Passphrase()):
        raise PassphraseWrong
    key.init_ciphers(envelope)
    return key
