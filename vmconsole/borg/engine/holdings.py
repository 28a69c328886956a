"""The chunks an unfinished archive relies on."""

from __future__ import annotations

from collections.abc import Iterator

from borg.hashindex import ChunkIndex

from vmconsole.borg.engine.chunks import ID


class Holdings:
    """A set of chunk ids in order of arrival, about 80 bytes each. Used under the session's lock."""

    def __init__(self) -> None:
        self._known = ChunkIndex()
        self._order = bytearray()

    def __contains__(self, id_: bytes) -> bool:
        return id_ in self._known

    def __len__(self) -> int:
        return len(self._order) // ID

    def __iter__(self) -> Iterator[bytes]:
        return (bytes(self._order[start : start + ID]) for start in range(0, len(self._order), ID))

    def add(self, id_: bytes) -> None:
        self._known.add(id_, 1, 1, 1)
        self._order += id_

    def clear(self) -> None:
        self._known.clear()
        self._order.clear()
