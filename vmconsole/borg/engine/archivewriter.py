"""One archive being written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from vmconsole.borg.engine import catalog
from vmconsole.borg.engine.checkpoints import Draft
from vmconsole.borg.engine.chunks import ChunkList
from vmconsole.borg.engine.diskwriter import EngineDiskWriter
from vmconsole.borg.engine.itemwriter import MemberList
from vmconsole.borg.engine.ledger import Ledger
from vmconsole.borg.engine.parking import Parking
from vmconsole.borg.engine.session import Session
from vmconsole.borg.engine.streamwriter import EngineStreamWriter
from vmconsole.errors import BackupFailed, ParentUnusable, PointNotFound
from vmconsole.model.point import GUEST_JSON, RestorePoint

_NAME = re.compile(r"[^/\s:\"'\x00-\x1f\x7f][^/\s\x00-\x1f\x7f]{0,199}")


class EngineArchiveWriter:
    """Implements ArchiveWriter. One thread at a time; its disks may each have their own."""

    def __init__(self, session: Session, name: str) -> None:
        if not _NAME.fullmatch(name) or name.endswith(catalog.CHECKPOINT):
            raise BackupFailed(f"{name!r} cannot be the name of an archive.")
        self.name = name
        self._session = session
        self._draft: Draft | None = session.draft(name)
        self._disks: dict[str, EngineDiskWriter] = {}
        self._streams: dict[str, EngineStreamWriter] = {}
        self._parking = Parking(session.settings.chunk_size)

    def disk(self, path: str, size: int, parent: tuple[str, str] | None = None) -> EngineDiskWriter:
        """Raises BackupFailed when the parent is missing or cut into chunks of another size."""
        draft = self._current()
        _check_path(path)
        if path in self._members() or size < 0:
            raise BackupFailed(f"{path} cannot be added to {self.name} (size {size}).")
        chunks = self._load(*parent) if parent else None
        made = EngineDiskWriter(self._session, draft, path, size, chunks, self._parking)
        self._disks[path] = made
        return made

    def stream(self, path: str) -> EngineStreamWriter:
        """See ArchiveWriter."""
        draft = self._current()
        _check_path(path)
        if path in self._members():
            raise BackupFailed(f"{path} would be twice in archive {self.name}.")
        made = self._streams[path] = EngineStreamWriter(self._session, draft, path)
        return made

    def _members(self) -> Mapping[str, EngineDiskWriter | EngineStreamWriter]:
        return {**self._streams, **self._disks}

    def _load(self, archive: str, path: str) -> ChunkList:
        try:
            chunks = catalog.disk(self._session.access, archive, path)
        except PointNotFound as error:
            raise ParentUnusable(
                f"The parent is gone: {error.message}", hint="Back the guest up in full.", subject=archive
            ) from error
        size = self._session.settings.chunk_size
        if not chunks.aligned(size):
            cut = f"chunks of {chunks.length} bytes" if chunks.length else "chunks of unequal size"
            raise ParentUnusable(
                f"{path} in archive {archive} is cut into {cut}, repository {self._session.settings.name} "
                f"uses {size}: it cannot be a parent.",
                hint="Back the guest up in full once.",
                subject=archive,
            )
        return chunks

    def commit(self, point: RestorePoint, files: Mapping[str, bytes]) -> str:
        """Raises BackupFailed when a disk is incomplete or point does not describe what was written."""
        draft = self._current()
        for member in self._members().values():
            member.close()
        self._check(point, files)
        self._session.check()
        guest_json = json.dumps(point.to_json(), indent=1, sort_keys=True).encode()
        small = {GUEST_JSON: guest_json, **dict(sorted(files.items()))}
        stored = {path: self._store(draft, data) for path, data in small.items()}
        lists = stored | {path: member.chunks() for path, member in sorted(self._members().items())}

        def write(listing: MemberList, ledger: Ledger) -> None:
            for path, chunks in lists.items():
                listing.add(path, chunks.size, point.time, chunks.count, ledger.refer(chunks))

        made = self._session.commit(draft, point.time, self.name.rpartition("-")[0] + "-", write)
        self._draft = None
        self._parking.close()
        return made

    def _store(self, draft: Draft, data: bytes) -> ChunkList:
        size = self._session.settings.chunk_size
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        return ChunkList(
            bytearray().join(self._session.store(draft, piece)[0] for piece in pieces), len(data), size
        )

    def _check(self, point: RestorePoint, files: Mapping[str, bytes]) -> None:
        told = {disk.path: disk.size for disk in point.stored_disks}
        written = {path: disk.size for path, disk in self._disks.items()}
        written |= {path: stream.size for path, stream in self._streams.items() if path in told}
        if told != written or point.archive != self.name:
            raise BackupFailed(
                f"guest.json of {self.name} would not describe the archive: it tells of {point.archive} with "
                f"{told}, written were {written}.",
                hint="This is a bug; nothing was committed.",
            )
        for path in files:
            _check_path(path)
            if path == GUEST_JSON or path in self._members():
                raise BackupFailed(f"{path} would be twice in archive {self.name}.")

    def abort(self) -> None:
        draft, self._draft = self._draft, None
        if draft is None:
            return
        for member in self._members().values():
            member.drop()
        self._parking.close()
        self._session.abort(draft)

    def _current(self) -> Draft:
        if self._draft is None:
            raise BackupFailed(f"Archive {self.name} is finished already.")
        return self._draft


def _check_path(path: str) -> None:
    """Members are relative and stay inside the folder they are extracted into."""
    parts = PurePosixPath(path).parts
    if not path or path.startswith("/") or ".." in parts or "\0" in path or str(PurePosixPath(path)) != path:
        raise BackupFailed(f"{path!r} cannot be the path of an archive's member.")
