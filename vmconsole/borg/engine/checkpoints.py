"""Cover for chunks of archives that are still being written when another one commits.

A commit makes everything in the repository permanent, also the chunks of unfinished archives, and
`borg check` calls a chunk that no archive refers to an error. So every commit leaves a checkpoint
archive for each unfinished one (Borg's own convention and suffix), listing what it holds. It is
replaced at the next commit and goes with the commit or abort of its archive. One that a killed run
left behind goes with the next commit of the same guest, whose reading finds its chunks there.
"""

from __future__ import annotations

from datetime import datetime

from vmconsole.borg.engine import catalog
from vmconsole.borg.engine.access import Access
from vmconsole.borg.engine.holdings import Holdings
from vmconsole.borg.engine.items import members
from vmconsole.borg.engine.itemwriter import MemberList, borg_time
from vmconsole.borg.engine.ledger import Ledger

COMMENT = "vmconsole: chunks of a backup that was not finished; may be deleted at any time"
MEMBER = "unfinished"


class Draft:
    """An unfinished archive: what it holds, and the checkpoint that covers it. Under the session's lock."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.holdings = Holdings()
        self._covered = 0
        self._stored: list[bytes] = []

    @property
    def checkpoint(self) -> str:
        return self.name + catalog.CHECKPOINT

    def cover(self, access: Access, ledger: Ledger, now: datetime) -> None:
        """Write the checkpoint anew when more is held than it lists."""
        if len(self.holdings) == self._covered:
            return
        listing = MemberList(ledger.cache, access.key)
        listing.add(MEMBER, None, now, len(self.holdings), ledger.entries(self.holdings))
        id_, stored = listing.finish(
            self.checkpoint, comment=COMMENT, start=now, end=now, chunk_size=access.settings.chunk_size
        )
        access.manifest.archives[self.checkpoint] = (id_, borg_time(now))
        ledger.drop(self._stored)
        self._stored = stored
        self._covered = len(self.holdings)

    def uncover(self, access: Access, ledger: Ledger) -> bool:
        """Let go of what is held and remove the checkpoint. True when there was one to remove."""
        ledger.release(self.holdings)
        if not self._stored:
            return False
        ledger.drop(self._stored)
        self._stored = []
        del access.manifest.archives[self.checkpoint]
        return True


def remove_stale(access: Access, ledger: Ledger, guest_prefix: str, keep: set[str]) -> None:
    """Delete the checkpoints that killed runs left of one guest."""
    for name, id_ in catalog.archive_ids(access).items():
        if name in keep or not name.startswith(guest_prefix) or not name.endswith(catalog.CHECKPOINT):
            continue
        archive = catalog.load_many(access, {name: id_})[0]
        if archive.comment != COMMENT:
            continue
        for member in members(access.fetch, archive.items, MEMBER.__eq__):
            if member.chunks is not None:
                ledger.drop(member.chunks.id_at(index) for index in range(member.chunks.count))
        ledger.drop([*archive.items, archive.id])
        del access.manifest.archives[name]
