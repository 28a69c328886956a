"""The demo host's guests: what libvirt would know of them, and their file systems' quiet moments."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vmconsole.demo.disk import VirtualDisk
from vmconsole.demo.ext4 import FileSystem


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """created: seconds since 1970. disks: targets with a bitmap of the checkpoint's name."""

    name: str
    created: int
    disks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuestDisk:
    """target: vda, vdb … pool: name of a storage pool when the disk is one of its volumes."""

    target: str
    disk: VirtualDisk
    pool: str = ""


@dataclass(slots=True)
class Guest:
    """A guest. domain_id is -1 when it is off. memory in MiB.

    workload: called in a thread of its own while a backup job runs, until the event is set.
    """

    name: str
    uuid: str
    title: str
    memory: int
    disks: list[GuestDisk]
    file_systems: dict[str, FileSystem]
    domain_id: int = -1
    agent: bool = True
    tags: tuple[str, ...] = ()
    workload: Callable[[threading.Event], None] | None = None
    agent_timeout: int = -2
    paused: bool = False
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    frozen: bool = False
    _writing: threading.Lock = field(default_factory=threading.Lock)
    _thawing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def running(self) -> bool:
        return self.domain_id >= 0

    @property
    def folder_name(self) -> str:
        """libvirt's `domain-<id>-<first 20 characters of the name>`."""
        return f"domain-{self.domain_id}-{self.name[:20]}"

    def disk(self, target: str) -> GuestDisk | None:
        return next((item for item in self.disks if item.target == target), None)

    @contextmanager
    def writes(self) -> Iterator[dict[str, FileSystem]]:
        """The guest changes its files; waits while its file systems are frozen."""
        with self._writing:
            yield self.file_systems
            for system in self.file_systems.values():
                system.sync()

    def freeze(self) -> int:
        """Wait for the writer to finish and hold it off. Returns how many file systems were frozen."""
        # Taken here, given back by thaw(), which another thread calls.
        self._writing.acquire()
        self.frozen = True
        return len(self.file_systems)

    def thaw(self) -> int:
        """Returns how many file systems were thawed; 0 when none was frozen."""
        with self._thawing:
            if not self.frozen:
                return 0
            self.frozen = False
            self._writing.release()
        return len(self.file_systems)
