"""A repository opened for writing: several archives at once, committed one at a time.

The cache is Borg's own LocalCache at its usual place, not the AdHocCache: only it has true
reference counts, which abort() and the removal of checkpoints need, and keeping it in step with
what we commit spares the next `borg prune` or `borg delete` a rebuild. It costs 44 bytes of memory
per chunk in the repository and one file copy per transaction. When somebody else wrote meanwhile,
Borg rebuilds it from the archives' member lists before the first write.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from datetime import datetime

from borg.cache import LocalCache

from vmconsole.borg.engine.access import CACHE_LOCK_WAIT, Access
from vmconsole.borg.engine.checkpoints import Draft, remove_stale
from vmconsole.borg.engine.codec import BORG_BUFFER, Buffer, zeros
from vmconsole.borg.engine.itemwriter import MemberList, borg_time
from vmconsole.borg.engine.ledger import Ledger
from vmconsole.borg.engine.translate import lock_lost, translate
from vmconsole.borg.engine.workers import Workers
from vmconsole.errors import BackupFailed, RepositoryError, VmconsoleError
from vmconsole.events import Warned
from vmconsole.interfaces import Context

CHECKPOINT_SECONDS = 1800.0
"""As `borg create` does by default."""

_log = logging.getLogger("vmconsole.borg")


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
        self._drafts: dict[str, Draft] = {}
        self._removed = False
        self._committed = context.clock.monotonic()
        access.drop_uncommitted()
        with access.locked(), BORG_BUFFER:
            cache = LocalCache(access.repository, access.key, access.manifest, lock_wait=CACHE_LOCK_WAIT)
        self._ledger = Ledger(access, cache)
        self.workers = Workers(self.settings.chunk_size)

    @contextmanager
    def _changing(self, draft: Draft | None = None) -> Iterator[Ledger]:
        """Change the repository, alone; for a draft only as long as it is neither committed nor given up."""
        with self.access.locked():
            self._raise_again()
            if draft is not None and self._drafts.get(draft.name) is not draft:
                raise BackupFailed(f"Archive {draft.name} is not being written any more.", subject=draft.name)
            try:
                yield self._ledger
            except BaseException as error:
                self._broken = error if isinstance(error, Exception) else RuntimeError(repr(error))
                raise

    def check(self) -> None:
        """Raise Cancelled, or what broke the session."""
        self.context.cancel.check()
        self._raise_again()

    def _raise_again(self) -> None:
        """Raise what broke the session: a copy, because one object raised in many threads ties them up."""
        if self._broken is None:
            return
        ours = translate(self._broken, self.settings, self.access.said)
        if not isinstance(ours, VmconsoleError):
            ours = RepositoryError(
                f"Nothing more was written to repository {self.settings.name} after an error: {ours!r}.",
                subject=self.settings.name,
            )
        raise copy(ours)

    def draft(self, name: str) -> Draft:
        """Begin an archive. Raises BackupFailed when there is one of that name."""
        self.check()
        with self.access.locked():
            if name in self.access.manifest.archives or name in self._drafts:
                raise BackupFailed(
                    f"Repository {self.settings.name} already has an archive {name}.",
                    hint="Two backups of one guest in the same second? Run it again.",
                    subject=name,
                )
            draft = self._drafts[name] = Draft(name)
            return draft

    def store(self, draft: Draft, data: Buffer) -> tuple[bytes, int]:
        """Make sure the repository has a chunk. Returns its id, and the bytes that were added.

        Hashing, compression and encryption run in the calling thread, outside the lock.
        """
        access, size = self.access, len(data)
        id_ = access.codec.id_of(data)
        with self._changing(draft) as ledger:
            if ledger.hold(draft.holdings, id_, size):
                return id_, 0
        frame = access.codec.compress(data)
        with self._changing(draft):
            nonce = access.sealer.reserve(len(frame))
        stored = access.sealer.seal(frame, nonce)
        with self._changing(draft) as ledger:
            if ledger.hold(draft.holdings, id_, size):
                return id_, 0
            ledger.put(draft.holdings, id_, size, stored)
            self._checkpoint_when_due(ledger)
        return id_, len(stored)

    def _checkpoint_when_due(self, ledger: Ledger) -> None:
        """Make a long read's chunks permanent now and then, so that after a crash they are found again."""
        now = self.context.clock.monotonic()
        if now - self._committed < CHECKPOINT_SECONDS:
            return
        self._assert_locked()
        for draft in self._drafts.values():
            draft.cover(self.access, ledger, self.context.clock.now())
        self._commit(ledger)

    def store_zero(self, draft: Draft, length: int) -> bytes:
        """The id of a chunk of zeros, which the repository then has."""
        id_ = self.access.codec.zero_id(length)
        with self._changing(draft) as ledger:
            if ledger.hold(draft.holdings, id_, length):
                return id_
        self.store(draft, zeros(length))
        return id_

    def commit(
        self, draft: Draft, start: datetime, guest_prefix: str, write: Callable[[MemberList, Ledger], None]
    ) -> str:
        """Make an archive of a draft. write adds its members. Returns the archive's id, hex.

        When this raises after the connection was lost the archive may exist all the same.
        """
        access = self.access
        with self._changing(draft) as ledger:
            self._assert_locked()
            ledger.begin()
            listing = MemberList(ledger.cache, access.key)
            write(listing, ledger)
            now = self.context.clock.now()
            id_, _ = listing.finish(
                draft.name, comment="", start=start, end=now, chunk_size=self.settings.chunk_size
            )
            draft.uncover(access, ledger)
            del self._drafts[draft.name]
            for other in self._drafts.values():
                other.cover(access, ledger, now)
            remove_stale(access, ledger, guest_prefix, {other.checkpoint for other in self._drafts.values()})
            access.manifest.archives[draft.name] = (id_, borg_time(start))
            self._commit(ledger)
        return id_.hex()

    def abort(self, draft: Draft) -> None:
        """Forget a draft; nothing of it stays. Never raises."""
        try:
            with self._changing() as ledger:
                if self._drafts.pop(draft.name, None) is not None:
                    self._removed |= draft.uncover(self.access, ledger)
        except Exception as error:  # noqa: BLE001 - the session is broken now, and commits nothing more
            _log.warning("archive %s was not taken back in order: %s", draft.name, error)

    def _commit(self, ledger: Ledger) -> None:
        access = self.access
        while access.repository.async_response(wait=True) is not None:
            pass
        access.manifest.write()
        access.repository.commit(compact=False)
        ledger.touched = self._removed = False
        self._committed = self.context.clock.monotonic()
        try:
            ledger.cache.commit()
        except Exception as error:  # noqa: BLE001 - the archive is safe, and Borg rebuilds its cache by itself
            self._broken = error
            self.warn(f"Borg's cache of repository {self.settings.name} could not be saved: {error}")

    def _assert_locked(self) -> None:
        """A lock that somebody broke meanwhile protects nothing: another writer may be at work."""
        if not self.settings.is_remote and not self.access.repository.lock.got_exclusive_lock():
            raise lock_lost(self.settings)

    def warn(self, message: str, hint: str = "") -> None:
        self.context.events(Warned(self.context.run, self.settings.name, message, hint))

    def close(self) -> None:
        """Take back what is unfinished, and close. Raises when checkpoints could not be removed."""
        try:
            for draft in list(self._drafts.values()):
                self.abort(draft)
            self.workers.close()
            if self._removed and self._broken is None:
                with self._changing() as ledger:
                    self._assert_locked()
                    self._commit(ledger)
        finally:
            self._close_cache()
            self.access.close(clean=self._broken is None and not self._ledger.touched)

    def _close_cache(self) -> None:
        cache = self._ledger.cache
        try:
            cache.close()
        except Exception as error:  # noqa: BLE001 - its lock must go in any case
            _log.warning("Borg's cache did not close cleanly: %s", error)
            with suppress(Exception):
                cache.cache_config.lock.release()
