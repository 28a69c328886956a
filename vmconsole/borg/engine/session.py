"""A repository opened for writing: several archives at once, committed one at a time.

The cache is Borg's own LocalCache at its usual place, not the AdHocCache: only it has true
reference counts, which abort() and the removal of checkpoints need, and keeping it in step with
what we commit spares the next `borg prune` or `borg delete` a rebuild. It costs 44 bytes of memory
per chunk in the repository and one file copy per transaction. When somebody else wrote meanwhile,
Borg rebuilds it from the archives' member lists before the first write.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from borg.cache import LocalCache

from vmconsole.borg.engine import catalog
from vmconsole.borg.engine.access import CACHE_LOCK_WAIT, Access
from vmconsole.borg.engine.checkpoints import Checkpoint, stale
from vmconsole.borg.engine.chunks import ChunkList
from vmconsole.borg.engine.codec import BORG_BUFFER, Buffer
from vmconsole.borg.engine.holdings import Holdings
from vmconsole.borg.engine.itemwriter import MemberList
from vmconsole.borg.engine.ledger import Ledger
from vmconsole.borg.engine.workers import Workers
from vmconsole.errors import BackupFailed, RepositoryLocked, VmconsoleError
from vmconsole.events import Warned
from vmconsole.interfaces import Context
from vmconsole.model.point import RestorePoint


class Session:
    """What the archives being written share. Thread-safe.

    Once Borg failed in the middle of a change the session is broken: everything raises that error
    again, nothing more is committed, and closing drops what was uncommitted.
    """

    def __init__(self, access: Access, context: Context) -> None:
        self.access = access
        self.settings = access.settings
        self.context = context
        self._broken: Exception | None = None
        self._open: dict[str, Checkpoint] = {}
        with access.locked(), BORG_BUFFER:
            cache = LocalCache(access.repository, access.key, access.manifest, lock_wait=CACHE_LOCK_WAIT)
        self._ledger = Ledger(access, cache)
        self.workers = Workers(self.settings.chunk_size)

    @contextmanager
    def changing(self) -> Iterator[Ledger]:
        """Change the repository, alone."""
        with self.access.locked():
            if self._broken is not None:
                raise self._broken
            try:
                yield self._ledger
            except BaseException as error:
                self._broken = error if isinstance(error, Exception) else RuntimeError(repr(error))
                raise

    def check(self) -> None:
        """Raise Cancelled, or what broke the session."""
        self.context.cancel.check()
        if self._broken is not None:
            with self.access.locked():
                raise self._broken
