"""When a guest is not backed up now: somebody holds it, or what its disks need is missing. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vmconsole.errors import BackupFailed, GuestBusy
from vmconsole.hypervisors.proxmox.api import lock_hint
from vmconsole.hypervisors.proxmox.facts import PveDisk, PveGuest, StorageFacts
from vmconsole.hypervisors.proxmox.proof import ACCESS, TRANSACTION
from vmconsole.model.guest import GuestKind, GuestState


def full_name(guest: PveGuest, host: str) -> str:
    """For messages: which guest, and where."""
    return f"{guest.name} ({guest.vmid}) on {host}/{guest.node}"


def refuse_busy(guest: PveGuest, host: str) -> None:
    """Raise GuestBusy when something holds the guest, or it is on its way somewhere."""
    who = full_name(guest, host)
    if guest.lock:
        tool = "pct" if guest.kind is GuestKind.CONTAINER else "qm"
        hint = lock_hint(guest.lock).replace("qm unlock", f"{tool} unlock").replace("VMID", str(guest.vmid))
        raise GuestBusy(f"{who} is locked by Proxmox ({guest.lock}).", hint=hint, subject=guest.name)
    if guest.migrating:
        raise GuestBusy(f"{who} is migrating.", hint=lock_hint("migrate"), subject=guest.name)
    if guest.busy:
        ours = "run of vmconsole" in guest.busy
        raise GuestBusy(
            f"{who} is held by {guest.busy}.",
            hint="If no run is working on it any more: vmconsole doctor --clean"
            if ours
            else "Let it finish, or keep two backup programs off the same guest at the same time.",
            subject=guest.name,
        )
    if guest.state is GuestState.OTHER:
        raise GuestBusy(
            f"{who} is neither running, paused nor off; it may be starting, stopping or migrating.",
            hint=f"Look at it on node {guest.node}: qm status {guest.vmid} --verbose",
            subject=guest.name,
        )


def refuse_second_vzdump(guest: PveGuest, host: str) -> None:
    if guest.vzdump:
        raise GuestBusy(
            f"{full_name(guest, host)} can only be read by vzdump, and a vzdump is running on that node already.",
            hint="Proxmox runs one at a time per node; let its own backup job finish, or move one of the two.",
            subject=guest.name,
        )


def require_storages(
    guest: PveGuest,
    selected: Sequence[PveDisk],
    storages: Mapping[str, StorageFacts],
    method: str,
    host: str,
) -> None:
    """A running guest is read through QEMU, which has its volumes open; anything else opens them anew."""
    if method in (ACCESS, TRANSACTION):
        return
    for disk in selected:
        if not disk.storage:
            continue
        storage = storages.get(disk.storage)
        if storage is None or not storage.enabled or not storage.active:
            how = (
                "is not defined"
                if storage is None
                else "is disabled"
                if not storage.enabled
                else "is not online"
            )
            raise BackupFailed(
                f"Storage {disk.storage}, which disk {disk.key} of {full_name(guest, host)} is on, {how} "
                f"on node {guest.node}.",
                hint="Look at it on that node: pvesm status",
                subject=guest.name,
            )


def require_disks(guest: PveGuest, selected: Sequence[PveDisk], method: str, host: str) -> None:
    for disk in selected:
        if method in (ACCESS, TRANSACTION) and not disk.node and disk.key != "tpmstate0":
            raise BackupFailed(
                f"Disk {disk.key} ({disk.volume}) of {full_name(guest, host)} is in its configuration, but its "
                "QEMU does not have it.",
                hint=f"Stop and start the guest, or set backup=0 for the disk: qm pending {guest.vmid}",
                subject=guest.name,
            )
        if not disk.size and guest.kind is GuestKind.VM:
            raise BackupFailed(
                f"The size of disk {disk.key} ({disk.volume}) of {full_name(guest, host)} cannot be found out.",
                hint=f"Is the volume there? On node {guest.node}: qm rescan --vmid {guest.vmid}",
                subject=guest.name,
            )
