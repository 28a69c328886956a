"""What a file system is to the rest of the house."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Any, Protocol

from vmconsole.guestfs.device import Stream
from vmconsole.model.files import FileKind

KINDS = {
    stat.S_IFREG: FileKind.FILE,
    stat.S_IFDIR: FileKind.FOLDER,
    stat.S_IFLNK: FileKind.LINK,
    stat.S_IFBLK: FileKind.DEVICE,
    stat.S_IFCHR: FileKind.DEVICE,
    stat.S_IFIFO: FileKind.PIPE,
    stat.S_IFSOCK: FileKind.SOCKET,
}


class FileSystem(Protocol):
    """Everything may raise anything: what is parsed is hostile. Node: what each of them knows a file by."""

    kind: str
    label: str
    uuid: str
    note: str
    """What should be known of it, a sentence; mostly empty."""
    folds: bool
    """Whether names differ only by more than case."""

    @property
    def root(self) -> Any: ...

    def children(self, node: Any) -> Iterator[tuple[str, Any]]:
        """Without `.` and `..`."""
        ...

    def facts(self, node: Any) -> dict[str, Any]:
        """The fields of a FileEntry but for the name, those that are known; kind as its word."""
        ...

    def open(self, node: Any) -> Stream: ...


def word(mode: int) -> str:
    """The kind of a file by its mode as Unix has it."""
    return KINDS.get(stat.S_IFMT(mode), FileKind.OTHER).value
