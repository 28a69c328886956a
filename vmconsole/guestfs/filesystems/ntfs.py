"""NTFS, read by dissect.ntfs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dissect.ntfs import NTFS
from dissect.ntfs.c_ntfs import ATTRIBUTE_TYPE_CODE, FILE_NAME_DOS

from vmconsole.guestfs.device import Memory, Stream, Whole
from vmconsole.model.files import FileKind

_SYSTEM = 16
"""The first segments of the master file table are NTFS's own: $MFT, $LogFile …"""
_ENCRYPTED = 0x4000


class Ntfs:
    kind = "ntfs"
    folds = True
    note = ""

    def __init__(self, stream: Stream) -> None:
        self._fs = NTFS(stream)
        self.label = self._fs.volume_name or ""
        self.uuid = f"{self._fs.serial & 0xFFFFFFFFFFFFFFFF:016X}" if self._fs.serial else ""

    @property
    def root(self) -> Any:
        return self._fs.mft.root

    def children(self, node: Any) -> Iterator[tuple[str, Any]]:
        if not node.is_dir():
            raise NotADirectoryError
        for entry in node.iterdir(ignore_dos=True):
            segment = entry.dereference().segment
            if segment >= _SYSTEM:
                yield entry.attribute.file_name, self._fs.mft.get(segment)

    def facts(self, node: Any) -> dict[str, Any]:
        attributes = node.attributes
        standard = attributes[ATTRIBUTE_TYPE_CODE.STANDARD_INFORMATION]
        names = [name for name in attributes[ATTRIBUTE_TYPE_CODE.FILE_NAME] if name.flags != FILE_NAME_DOS]
        kind = self._kind(node)
        return {
            "kind": kind.value,
            "size": node.size() if kind is FileKind.FILE and node.has_stream() else 0,
            "changed": standard[0].last_modification_time_ns / 1e9 if standard else None,
            "target": (node.reparse_point_name or "") if kind is FileKind.LINK else "",
            "identity": str(node.segment),
            "links": max(1, len(names)),
        }

    def _kind(self, node: Any) -> FileKind:
        if node.is_symlink() or node.is_mount_point():
            return FileKind.LINK
        return FileKind.FOLDER if node.is_dir() else FileKind.FILE

    def open(self, node: Any) -> Stream:
        if not node.has_stream():
            return Memory(b"")
        standard = node.attributes[ATTRIBUTE_TYPE_CODE.STANDARD_INFORMATION]
        if standard and int(standard[0].file_attributes) & _ENCRYPTED:
            raise PermissionError("the guest has encrypted this file")
        return Whole(node.open(), node.size())
