"""Exporting a guest that is off, or a template, by reading its volumes with qemu-nbd.

Proxmox deactivates a guest's volumes when it stops, so they are activated, by Proxmox's own library,
and deactivated afterwards. The lock in the guest's configuration keeps it from being started or
changed meanwhile. QEMU's own image locks are not taken; a guest that somebody starts all the same
is noticed at the end, and nothing that was read is then used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vmconsole.disks.nbd.client import NbdClient
from vmconsole.errors import BackupFailed, GuestBusy
from vmconsole.events import step
from vmconsole.hypervisors.proxmox import document as documents
from vmconsole.hypervisors.proxmox import fleecing, graph
from vmconsole.hypervisors.proxmox.document import Document
from vmconsole.hypervisors.proxmox.facts import PlanFacts, PveDisk, PveGuest, point_facts
from vmconsole.hypervisors.proxmox.hold import Hold, begin, boot_id, members
from vmconsole.hypervisors.proxmox.nodes import Nodes
from vmconsole.hypervisors.proxmox.running import volume_path
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.served.disk import DiskFacet, ServedDisk
from vmconsole.hypervisors.served.qemunbd import Image, NbdServers, serve
from vmconsole.interfaces import Context, Cut, DiskPlan, ExportPlan, Feed
from vmconsole.model.point import Consistency, Mode
from vmconsole.remote.machine import Machine

_OFF = "status: stopped"


def open_offline_export(
    nodes: Nodes, settings: ProxmoxSettings, plan: ExportPlan, context: Context
) -> OfflineExport:
    """On any failure the node is left as it was. Raises GuestBusy, BackupFailed, HostError, Cancelled."""
    facts: PlanFacts = plan.facts
    guest = facts.guest
    machine = nodes.machine(guest.node)
    plans = [disk for disk in plan.disks if disk.mode is not Mode.SKIPPED]
    chosen = [guest.disk(disk.id) for disk in plans]
    volumes = {disk.key: disk.volume for disk in chosen if disk.storage}
    # A volume that something else has open stays active.
    down = [
        {"run": ["perl", "-MPVE::Storage", "-e", fleecing.DEACTIVATE, volume], "ignore": "."}
        for volume in volumes.values()
    ]
    document = Document(
        vmid=guest.vmid,
        run=context.run,
        folder=documents.folder_of(guest.vmid),
        boot=boot_id(machine, guest),
        undo=tuple(down),
        commit=tuple(down),
    )
    hold = begin(machine, plan, context, document)
    servers: NbdServers | None = None
    try:
        with step(context.events, context.run, guest.name, "cut"):
            require_off(machine, guest)
            found = hold.do([step for item in volumes.items() for step in fleecing.locate(*item)])
            moment = context.clock.now()
            servers = serve(machine, [Image(disk.key, _options(disk, found)) for disk in chosen])
        sized = [_true_size(disk, servers) for disk in plans]
    except BaseException:
        if servers is not None:
            servers.close()
        hold.rollback()
        raise
    cut = Cut(moment, Consistency.OFFLINE, None, facts=point_facts(plan.method, facts))
    disks = [ServedDisk(DiskFacet(disk), servers, settings.nbd_connections, context) for disk in sized]
    return OfflineExport(machine, guest, hold, servers, disks, cut)


class OfflineExport:
    """See Export."""

    feed: Feed | None = None

    def __init__(
        self,
        machine: Machine,
        guest: PveGuest,
        hold: Hold,
        servers: NbdServers,
        disks: Sequence[ServedDisk],
        cut: Cut,
    ) -> None:
        self._machine = machine
        self._guest = guest
        self._hold = hold
        self._servers = servers
        self.disks = disks
        self.cut = cut
        self.files = members(guest)

    def check(self) -> None:
        self._hold.check()

    def release(self) -> None:
        """Raises GuestBusy when the guest was started meanwhile, HostError when the guard is gone."""
        self._hold.check()
        require_off(self._machine, self._guest)
        self._close()

    def advance(self) -> None:
        """No bitmap is left behind: QEMU's end with the guest."""
        self._hold.advance()

    def rollback(self) -> None:
        self._close()
        self._hold.rollback()

    def _close(self) -> None:
        for disk in self.disks:
            disk.close()
        self._servers.close()


def require_off(machine: Machine, guest: PveGuest) -> None:
    """Raises GuestBusy, HostError."""
    said = machine.run(["qm", "status", str(guest.vmid)]).text.strip()
    if said != _OFF:
        raise GuestBusy(
            f"{guest.name} ({guest.vmid}) on {machine.name} was started while it was read ({said[:80]}).",
            hint="Nothing of it was stored; the next run backs it up running.",
            subject=guest.name,
        )


def _options(disk: PveDisk, found: Mapping[str, object]) -> dict[str, object]:
    """QEMU's options to read a volume, without a lock that a starting guest would trip over."""
    path = volume_path(found, disk.key) if disk.storage else disk.volume
    node = graph.storage_node(path)
    if node["driver"] in ("file", "host_device"):
        node["locking"] = "off"
    return {"driver": disk.format or "raw", "file": node}


def _true_size(disk: DiskPlan, servers: NbdServers) -> DiskPlan:
    """What the configuration says is informational, and a storage may round up."""
    with NbdClient.connect(servers.connect(disk.id), disk.id, ()) as client:
        if not client.size:
            raise BackupFailed(f"The volume of {disk.id} ({disk.source}) is empty.", subject=disk.id)
        return replace(disk, size=client.size)
