"""A pull backup of the demo host: what `virsh backup-begin` starts and `domjobabort` ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from vmconsole.demo import domain_xml
from vmconsole.demo.disk import GRANULE, Snapshot, VirtualDisk, cut, runs
from vmconsole.demo.domain_xml import JobDisk
from vmconsole.demo.guests import Checkpoint, Guest
from vmconsole.disks.nbd.protocol import BASE_ALLOCATION, DIRTY_BITMAP, STATE_DIRTY, STATE_HOLE, STATE_ZERO
from vmconsole.disks.nbd.server import NbdServer
from vmconsole.disks.nbd.source import MappedSource
from vmconsole.errors import VmconsoleError


class Refused(Exception):
    """What libvirt answers instead, as virsh prints it after `error: `."""


@dataclass(frozen=True, slots=True)
class CutRecord:
    """A disk at one cut. asked: the documents that asked for it. time: seconds since 1970."""

    guest: str
    disk: str
    checkpoint: str
    asked: str
    time: float
    sha256: Future[str]


@dataclass(frozen=True, slots=True)
class Request:
    """A `<domainbackup>` and its `<domaincheckpoint>`, read."""

    socket: str
    base: str
    disks: tuple[JobDisk, ...]
    checkpoint: str
    tracked: tuple[str, ...]


def parse_request(guest: Guest, backup_text: str, checkpoint_text: str) -> Request:
    """Raises Refused for what libvirt would refuse before it touches anything."""
    backup = _parse(backup_text, "domainbackup")
    server = backup.find("server")
    if backup.get("mode", "push") != "pull" or server is None or server.get("transport") != "unix":
        raise Refused("unsupported configuration: the demo host only knows pull backups to unix sockets")
    base = (backup.findtext("incremental") or "").strip()
    disks = tuple(_job_disks(guest, backup, base))
    if not disks:
        raise Refused("invalid argument: no disks selected for backup")
    if not checkpoint_text:
        return Request(server.get("socket", ""), base, disks, "", ())
    record = _parse(checkpoint_text, "domaincheckpoint")
    name = (record.findtext("name") or "").strip() or str(int(time.time()))
    if name in guest.checkpoints:
        raise Refused(f"operation failed: domain moment {name} already exists")
    tracked = _tracked(record)
    for target in tracked:
        found = guest.disk(target)
        if found is None:
            raise Refused(f"unsupported configuration: no disk named '{target}'")
        if found.disk.format != "qcow2":
            raise Refused(
                f"unsupported configuration: checkpoint for disk {target} unsupported for storage type raw"
            )
        if name in found.disk.bitmaps:
            raise Refused(
                f"internal error: unable to execute QEMU command 'transaction': Bitmap already exists: {name}"
            )
    return Request(server.get("socket", ""), base, disks, name, tracked)


def parse_checkpoint(text: str) -> Checkpoint:
    """A `<domaincheckpoint>` to be redefined. Raises Refused."""
    record = _parse(text, "domaincheckpoint")
    name, created = record.findtext("name", "").strip(), record.findtext("creationTime", "").strip()
    if not name or not created.isdecimal():
        raise Refused("internal error: missing creationTime from existing checkpoint")
    return Checkpoint(name, int(created), _tracked(record))


def _tracked(record: Element) -> tuple[str, ...]:
    return tuple(
        item.get("name", "") for item in record.iterfind("disks/disk") if item.get("checkpoint") == "bitmap"
    )


def _job_disks(guest: Guest, backup: Element, base: str) -> list[JobDisk]:
    found: list[JobDisk] = []
    for number, item in enumerate(backup.iterfind("disks/disk")):
        target = item.get("name", "")
        disk = guest.disk(target)
        if disk is None:
            raise Refused(f"unsupported configuration: no disk named '{target}'")
        if item.get("backup", "yes") == "no":
            continue
        mode = item.get("backupmode", "incremental" if base else "full")
        start = item.get("incremental", base) if mode == "incremental" else ""
        if start and start not in guest.checkpoints:
            raise Refused(
                f"Domain checkpoint not found: Checkpoint '{start}' for incremental backup of disk "
                f"'{target}' not found"
            )
        if start and start not in disk.disk.bitmaps:
            raise Refused(f"checkpoint inconsistent: missing or broken bitmap '{start}' for disk '{target}'")
        place = item.find("scratch")
        scratch = place.get("file", "") if place is not None else f"{disk.disk.path}.scratch"
        if Path(scratch).exists():
            raise Refused(f"invalid argument: store '{scratch}' for backup of '{target}' exists")
        if not Path(scratch).parent.is_dir():
            raise Refused(
                f"internal error: unable to execute QEMU command 'blockdev-create': Could not create "
                f"'{scratch}': No such file or directory"
            )
        found.append(JobDisk(target, scratch, start, number + 16))
    return found


def _parse(text: str, root: str) -> Element:
    try:
        element: Element = ElementTree.fromstring(text.strip(), forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise Refused(f"(domain_backup):1: {error}") from error
    if element.tag != root:
        raise Refused(f"XML error: unexpected root element <{element.tag}>, expecting <{root}>")
    return element


class BackupJob:
    """A job from its cut to its end. Raises Refused when it cannot begin; then nothing remains."""

    def __init__(
        self, guest: Guest, request: Request, witness_folder: Path, hashing: ThreadPoolExecutor, asked: str
    ) -> None:
        self.guest = guest
        self.request = request
        self.began = time.monotonic()
        self._end = threading.Event()
        self._server: NbdServer | None = None
        self._disks: list[VirtualDisk] = []
        for job in request.disks:
            found = guest.disk(job.target)
            assert found is not None
            self._disks.append(found.disk)
        exports: dict[str, MappedSource] = {}
        server = NbdServer(exports)
        try:
            server.listen_unix(request.socket, mode=0o775)
        except VmconsoleError as error:
            server.close()
            raise Refused(
                f"internal error: unable to execute QEMU command 'nbd-server-start': "
                f"Failed to bind socket to {request.socket}: {_cause(error)}"
            ) from error
        now = time.time()
        made = cut(
            [
                (disk, job.base, Path(job.scratch))
                for disk, job in zip(self._disks, request.disks, strict=True)
            ],
            witness_folder,
            new_bitmap=request.checkpoint,
            tracked=[found.disk for found in guest.disks if found.target in request.tracked],
        )
        self._snapshots = [snapshot for snapshot, _ in made]
        if request.checkpoint:
            guest.checkpoints[request.checkpoint] = Checkpoint(request.checkpoint, int(now), request.tracked)
        self.cuts = [
            CutRecord(guest.uuid, job.target, request.checkpoint, asked, now, hashing.submit(witness.sha256))
            for job, (_, witness) in zip(request.disks, made, strict=True)
        ]
        for job, snapshot in zip(request.disks, self._snapshots, strict=True):
            exports[job.target] = source(snapshot, f"backup-{job.target}" if job.base else "")
        self._server = server
        self._workload = self._start(guest.workload)

    @property
    def scratch_bytes(self) -> int:
        return sum(snapshot.scratch_bytes for snapshot in self._snapshots)

    @property
    def total_bytes(self) -> int:
        return sum(snapshot.size for snapshot in self._snapshots)

    def xml(self) -> str:
        disks = {job.target: job for job in self.request.disks}
        return domain_xml.backup(self.guest, self.request.socket, self.request.base, disks)

    def end(self) -> None:
        """Drop the clients, remove socket and scratch files. The checkpoint stays."""
        self._end.set()
        if self._server is not None:
            self._server.close()
        for snapshot in self._snapshots:
            snapshot.close()
        if self._workload is not None:
            self._workload.join()

    def _start(self, workload: Callable[[threading.Event], None] | None) -> threading.Thread | None:
        if workload is None:
            return None
        thread = threading.Thread(target=workload, args=(self._end,), name="demo-guest", daemon=True)
        thread.start()
        return thread


def source(snapshot: Snapshot, bitmap: str) -> MappedSource:
    """A snapshot as an NBD export: what is allocated, and, with a bitmap's name, what is dirty."""
    maps = {BASE_ALLOCATION: granule_map(snapshot.allocated, snapshot.size, 0, STATE_HOLE | STATE_ZERO)}
    if bitmap:
        maps[f"{DIRTY_BITMAP}{bitmap}"] = granule_map(snapshot.dirty, snapshot.size, STATE_DIRTY, 0)
    return MappedSource(snapshot.size, snapshot.read_at, maps)


def granule_map(
    flags: bytes | bytearray, size: int, when_set: int, when_not: int
) -> list[tuple[int, int, int]]:
    """(offset, length, NBD flags) of the whole disk from one byte per granule."""
    out: list[tuple[int, int, int]] = []
    position = 0
    for first, end in runs(flags, 1):
        start, stop = first * GRANULE, min(end * GRANULE, size)
        if start > position:
            out.append((position, start - position, when_not))
        out.append((start, stop - start, when_set))
        position = stop
    if position < size:
        out.append((position, size - position, when_not))
    return out


def _cause(error: BaseException) -> str:
    cause = error.__cause__
    return cause.strerror or str(cause) if isinstance(cause, OSError) else str(error)
