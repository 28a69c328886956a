"""The files inside a guest's disks, as a restore point has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from vmconsole.model.files import FileEntry, Volume


class GuestFiles(Protocol):
    """Not to be used by two threads at once. volume: a Volume's name; empty for the guest's own tree, in which its
    volumes are where its fstab mounts them. Paths begin with a slash; links in them are followed as in the guest.

    Everything raises PathNotFound for what is not there, FilesUnreadable for what is broken or takes too long, and
    what the reader of a disk raises.
    """

    @property
    def volumes(self) -> Sequence[Volume]: ...

    def entry(self, volume: str, path: str, *, follow: bool = False) -> FileEntry:
        """follow: where the path ends in a symbolic link, what that leads to."""
        ...

    def entries(self, volume: str, path: str) -> Iterator[FileEntry]:
        """What is in a folder, in no order; must be read to its end before anything else is asked."""
        ...

    def read(self, volume: str, path: str, offset: int, length: int) -> Iterator[bytes]:
        """A file's bytes, fewer at its end, in pieces; must be read to its end before anything else is asked."""
        ...
