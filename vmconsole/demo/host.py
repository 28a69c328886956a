"""The demo's hypervisor: guests, their backup jobs, their images."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from vmconsole.demo.backup_job import BackupJob, CutRecord, Refused, parse_checkpoint, parse_request
from vmconsole.demo.disk import VirtualDisk, Witness
from vmconsole.demo.guests import Guest, GuestDisk

POOL = "images"
QEMU_VERSION = "10.0.2"
LIBVIRT_VERSION = "11.3.0"


@dataclass(frozen=True, slots=True)
class Folders:
    """images, witnesses: big files. lib, run, log: libvirt's own folders, of a session daemon."""

    images: Path
    witnesses: Path
    lib: Path
    run: Path
    log: Path

    def make(self) -> None:
        for folder in (self.images, self.witnesses, self.lib, self.run, self.log):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)


class Host:
    """Thread-safe: programs, NBD clients and guests come in threads of their own."""

    def __init__(self, folders: Folders) -> None:
        folders.make()
        self.folders = folders
        self.guests: list[Guest] = []
        self.cuts: list[CutRecord] = []
        self.lock = threading.RLock()
        self._jobs: dict[str, BackupJob] = {}
        self._next_id = 1
        self._hashing = ThreadPoolExecutor(1, thread_name_prefix="demo-sha256")

    def close(self) -> None:
        """End all jobs, finish the checksums, close the images."""
        for guest in list(self.guests):
            job = self._take_job(guest)
            if job is not None:
                job.end()
            guest.thaw()
        self._hashing.shutdown()
        for guest in self.guests:
            for item in guest.disks:
                item.disk.close()

    def find(self, name: str) -> Guest | None:
        """By uuid, name, or the number of a running guest, as virsh does."""
        with self.lock:
            for guest in self.guests:
                if name in (guest.uuid, guest.name) or (guest.running and name == str(guest.domain_id)):
                    return guest
        return None

    @property
    def witnesses(self) -> Path:
        return self.folders.witnesses

    def find_image(self, path: str) -> tuple[Guest, GuestDisk] | None:
        for guest in self.guests:
            for item in guest.disks:
                if str(item.disk.path) == path:
                    return guest, item
        return None

    def start(self, guest: Guest) -> None:
        """Give it a number, a folder for its sockets, a pid file and a log, as libvirt does."""
        with self.lock:
            guest.domain_id = self._next_id
            self._next_id += 1
        folders = self.folders
        (folders.lib / guest.folder_name).mkdir(mode=0o700)
        # The process that runs the guest is this one.
        (folders.run / f"{guest.name}.pid").write_text(str(os.getpid()))
        with (folders.log / f"{guest.name}.log").open("a") as log:
            log.write(f"starting up libvirt version: {LIBVIRT_VERSION}, qemu version: {QEMU_VERSION}\n")

    def shut_off(self, guest: Guest) -> None:
        """The guest powers off; a backup job of it ends, as QEMU does."""
        self.end_job(guest)
        (self.folders.run / f"{guest.name}.pid").unlink(missing_ok=True)
        folder = self.folders.lib / guest.folder_name
        with self.lock:
            guest.thaw()
            guest.domain_id = -1
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()

    def job(self, guest: Guest) -> BackupJob | None:
        with self.lock:
            return self._jobs.get(guest.uuid)

    def begin(self, guest: Guest, backup_text: str, checkpoint_text: str) -> None:
        """Start a backup job. Raises Refused."""
        with self.lock:
            if not guest.running:
                raise Refused("Operation not supported: cannot perform disk backup for inactive domain")
            if guest.uuid in self._jobs:
                raise Refused(
                    "Timed out during operation: cannot acquire state change lock "
                    "(held by monitor=remoteDispatchDomainBackupBegin)"
                )
            request = parse_request(guest, backup_text, checkpoint_text)
            asked = backup_text + checkpoint_text
            job = BackupJob(guest, request, self.folders.witnesses, self._hashing, asked)
            self._jobs[guest.uuid] = job
            self.cuts += job.cuts

    def end_job(self, guest: Guest) -> bool:
        """False when there is none."""
        job = self._take_job(guest)
        if job is None:
            return False
        job.end()
        return True

    def delete_checkpoint(self, guest: Guest, name: str, *, metadata_only: bool) -> None:
        """Raises Refused."""
        with self.lock:
            point = guest.checkpoints.get(name)
            if point is None:
                raise Refused(
                    f"Domain checkpoint not found: no domain checkpoint with matching name '{name}'"
                )
            if not metadata_only:
                if not guest.running:
                    raise Refused("Operation not supported: cannot delete checkpoint for inactive domain")
                self._delete_bitmaps(guest, name, point.disks)
            del guest.checkpoints[name]

    def redefine_checkpoint(self, guest: Guest, text: str) -> str:
        """Make a checkpoint known again from its XML; returns its name. Raises Refused."""
        with self.lock:
            point = parse_checkpoint(text)
            found = guest.checkpoints.get(point.name)
            guest.checkpoints[point.name] = point if found is None else found
            return point.name

    def _delete_bitmaps(self, guest: Guest, name: str, targets: tuple[str, ...]) -> None:
        found = [item for item in guest.disks if item.target in targets]
        missing = [item for item in found if name not in item.disk.bitmaps]
        if missing:
            raise Refused(
                f"operation failed: bitmap '{name}' not found in backing chain of '{missing[0].target}'"
            )
        for item in found:
            with item.disk.lock:
                del item.disk.bitmaps[name]

    def witness(self, guest: Guest, item: GuestDisk, asked: str, now: float) -> None:
        """Record a disk's checksum as it is now, for a guest that is off and read through qemu-nbd."""
        copy = Witness(item.disk, self.folders.witnesses / f"{uuid4().hex}.witness")
        with self.lock:
            record = CutRecord(guest.uuid, item.target, "", asked, now, self._hashing.submit(copy.sha256))
            self.cuts.append(record)

    def _take_job(self, guest: Guest) -> BackupJob | None:
        with self.lock:
            return self._jobs.pop(guest.uuid, None)


def dirty_sizes(guest: Guest, name: str, targets: tuple[str, ...]) -> dict[str, int]:
    """Bytes recorded as changed, of the disks whose bitmap is whole."""
    sizes: dict[str, int] = {}
    for item in guest.disks:
        disk: VirtualDisk = item.disk
        with disk.lock:
            if item.target in targets and name in disk.bitmaps:
                sizes[item.target] = disk.dirty_bytes(name)
    return sizes
