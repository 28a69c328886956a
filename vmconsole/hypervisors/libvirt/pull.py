"""Exporting a running guest through a pull-mode backup job of libvirt.

All disks are in one job, so they are cut at the same instant; each is read over NBD from a unix
socket in the guest's own folder. The job is held by guard.sh on the host, which ends it when we
vanish. Order: journal, guard, freeze, cut, thaw, read, end the job *while the NBD clients are still
connected* (QEMU 7.2 can crash on a client that leaves first), archive, drop the old checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vmconsole.disks import extents as maps
from vmconsole.disks.nbd.client import NbdClient
from vmconsole.disks.nbd.parallel import connections_for, read_many
from vmconsole.errors import BackupFailed, HostError, NotPermitted, ProtocolError
from vmconsole.hypervisors.libvirt import jobxml, names
from vmconsole.hypervisors.libvirt.checkpoints import read_checkpoint
from vmconsole.hypervisors.libvirt.facts import CheckpointFacts, PlanFacts, point_facts
from vmconsole.hypervisors.libvirt.hold import Hold, begin
from vmconsole.hypervisors.libvirt.members import collect_members
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.interfaces import Context, Cut, DiskPlan, ExportPlan, Feed
from vmconsole.model.extent import Content, Extent
from vmconsole.model.guest import Tracking
from vmconsole.model.point import Mode
from vmconsole.remote.machine import Machine

ALLOCATION = "base:allocation"
READ_ERRORS = (HostError, ProtocolError)


def open_pull_export(
    virsh: Virsh, settings: LibvirtSettings, plan: ExportPlan, context: Context
) -> PullExport:
    """Begin the job and connect to it. On any failure the host is left as it was.

    Raises GuestBusy, GuestStopped, OutOfSpace, BackupFailed, HostError, Cancelled.
    """
    facts: PlanFacts = plan.facts
    guest = facts.guest
    run = context.run
    chosen = [disk for disk in plan.disks if disk.mode is not Mode.SKIPPED]
    tracked = [disk.id for disk in chosen if guest.disk(disk.id).tracking is Tracking.BITMAP]
    socket = _socket_path(facts, run)
    disks = [
        jobxml.JobDisk(
            disk.id,
            names.scratch_path(facts.scratch, guest.uuid, disk.id, run),
            facts.bases[disk.id] if disk.mode is Mode.INCREMENTAL else "",
        )
        for disk in chosen
    ]
    checkpoint = names.checkpoint_name(facts.repository, run) if tracked else ""
    hold = begin(
        virsh,
        settings,
        plan,
        context,
        checkpoint=checkpoint,
        mark=names.base_name(disks[0].file),
        files=(*(disk.file for disk in disks), socket),
    )
    try:
        hold.cut(jobxml.pull_job(socket, disks), jobxml.checkpoint(checkpoint, tracked))
        return _opened(hold, virsh, settings, plan, context, socket, checkpoint, tracked)
    except BaseException:
        hold.rollback()
        raise


def _socket_path(facts: PlanFacts, run: str) -> str:
    """In the guest's own folder, which AppArmor lets QEMU write to; else beside the scratch files."""
    for folder in (facts.guest.run_folder, facts.scratch):
        path = names.socket_path(folder, facts.guest.uuid, run)
        if folder and len(path.encode()) <= names.SOCKET_PATH_MAX:
            return path
    raise BackupFailed(
        f"No folder for the socket of {facts.guest.name}: {facts.scratch} is too long a path.",
        hint="Set another `scratch` folder for this host.",
        subject=facts.guest.name,
    )


def _opened(
    hold: Hold,
    virsh: Virsh,
    settings: LibvirtSettings,
    plan: ExportPlan,
    context: Context,
    socket: str,
    checkpoint: str,
    tracked: Sequence[str],
) -> PullExport:
    facts: PlanFacts = plan.facts
    guest = facts.guest
    made: tuple[CheckpointFacts, ...] = ()
    if checkpoint:
        made = (read_checkpoint(virsh, guest.uuid, checkpoint),)
    members, warnings = collect_members(virsh, guest, made[0].xml if made else "")
    disks: list[PullDisk] = []
    try:
        for disk in plan.disks:
            if disk.mode is not Mode.SKIPPED:
                disks.append(  # noqa: PERF401 - on a failure those before it must be known
                    _open_disk(
                        virsh.machine,
                        socket,
                        disk,
                        bitmap=checkpoint if disk.id in tracked else "",
                        facts=facts,
                        connections=settings.nbd_connections,
                        context=context,
                        hold=hold,
                    )
                )
    except BaseException:
        # End the job first: see the module's text.
        hold.rollback()
        for opened in disks:
            opened.abandon()
        raise
    cut = replace(
        hold.cut_made,
        warnings=(*hold.cut_made.warnings, *warnings),
        facts=point_facts("pull", guest, made),
    )
    return PullExport(cut=cut, disks=disks, files=members, hold=hold)


def _open_disk(
    machine: Machine,
    socket: str,
    plan: DiskPlan,
    *,
    bitmap: str,
    facts: PlanFacts,
    connections: int,
    context: Context,
    hold: Hold,
) -> PullDisk:
    dirty = f"qemu:dirty-bitmap:backup-{plan.id}" if plan.mode is Mode.INCREMENTAL else ""
    client = connect(machine, socket, plan.id, (ALLOCATION, dirty) if dirty else (ALLOCATION,))
    try:
        if dirty:
            client.require_context(dirty)
    except BaseException:
        client.abandon()
        raise
    return PullDisk(
        # Resized between plan and cut: the export knows.
        plan=replace(plan, size=client.size),
        bitmap=bitmap,
        process=facts.guest.process,
        old_size=facts.old_sizes.get(plan.id, 0),
        dirty=dirty,
        hold=hold,
        context=context,
        clients=[client],
        more=lambda: connect(machine, socket, plan.id, ()),
        connections=connections,
    )


def connect(machine: Machine, socket: str, export: str, contexts: Sequence[str]) -> NbdClient:
    """Raises NotPermitted with the remedy, HostError, ProtocolError."""
    try:
        stream = machine.open_unix(socket)
    except NotPermitted as error:
        raise NotPermitted(
            f"The NBD socket of the backup job on {machine.name} may not be opened: {error.message}",
            hint="Log in as root, or run on the host: usermod -aG libvirt-qemu USER, and log in again.",
            subject=machine.name,
        ) from error
    return NbdClient.connect(stream, export, contexts)


@dataclass(eq=False)
class PullDisk:
    """One NBD export of the job."""

    plan: DiskPlan
    bitmap: str
    process: str
    old_size: int
    dirty: str
    hold: Hold
    context: Context
    clients: list[NbdClient]
    more: Callable[[], NbdClient]
    connections: int
    bytes_dirty: int = 0

    def extents(self) -> Sequence[Extent]:
        """Raises what the reason for a lost connection is: GuestStopped, OutOfSpace, HostError."""
        try:
            found = self.clients[0].block_status(cancel=self.context.cancel)
            size = self.plan.size
            if self.dirty:
                extents = maps.incremental_extents(
                    found.get(ALLOCATION), found[self.dirty], size, self.old_size
                )
                self.bytes_dirty = maps.dirty_bytes(extents)
            else:
                extents = maps.full_extents(found.get(ALLOCATION), size)
                self.bytes_dirty = maps.bytes_of(extents, Content.DATA)
        except READ_ERRORS:
            self.hold.explain()
            raise
        return extents

    def read(self, extents: Iterable[Extent]) -> Iterator[tuple[int, bytes | bytearray | memoryview]]:
        wanted = ((extent.offset, extent.length) for extent in extents)
        try:
            wished = connections_for(self.bytes_dirty, self.connections)
            while len(self.clients) < wished and self.clients[0].can_multi_conn:
                self.clients.append(self.more())
            yield from read_many(self.clients, wanted, cancel=self.context.cancel, pace=self.context.pace)
        except READ_ERRORS:
            self.hold.explain()
            raise

    def swallow(self) -> None:
        """See NbdClient."""
        for client in self.clients:
            client.swallow()

    def abandon(self) -> None:
        """Close the connections. Only after the job has ended."""
        for client in self.clients:
            client.abandon()


class PullExport:
    """A guest's disks at one cut; see Export."""

    feed: Feed | None = None

    def __init__(
        self, *, cut: Cut, disks: Sequence[PullDisk], files: Mapping[str, bytes], hold: Hold
    ) -> None:
        self.cut = cut
        self.disks = disks
        self.files = files
        self._hold = hold

    def check(self) -> None:
        self._hold.check()

    def release(self) -> None:
        self._hold.explain()
        self._hold.release()
        self._abandon()

    def advance(self) -> None:
        self._hold.advance()

    def rollback(self) -> None:
        for disk in self.disks:
            disk.swallow()
        self._hold.rollback()
        self._abandon()

    def _abandon(self) -> None:
        for disk in self.disks:
            disk.abandon()
