"""What stands in the way of reading a guest's images with a qemu-nbd of ours."""

from __future__ import annotations

from collections.abc import Sequence

from vmconsole.errors import BackupFailed, ProtocolError
from vmconsole.hypervisors.libvirt.facts import DiskFacts, GuestFacts
from vmconsole.hypervisors.libvirt.images import parse_info
from vmconsole.hypervisors.libvirt.xml import parse_domain
from vmconsole.remote.machine import Machine


def recorded_below(machine: Machine, disk: DiskFacts, bitmap: str) -> bool:
    """Whether a backing file of the disk holds a part of what the bitmap recorded.

    After an external snapshot a bitmap goes on under the same name in the new top layer, and
    qemu-nbd would show only that half. Everything counts as changed then. A layer that cannot be
    looked at is taken to hold some.
    """
    if not bitmap:
        return False
    for path in disk.chain:
        done = machine.run(["qemu-img", "info", "-U", "--output=json", "--", path], check=False)
        try:
            if done.status or any(item.name == bitmap for item in parse_info(done.text).bitmaps):
                return True
        except ProtocolError:
            return True
    return False


def refuse_unreadable(guest: GuestFacts, disks: Sequence[DiskFacts], how: str) -> None:
    """Raise BackupFailed for disks that only the guest's own QEMU can read."""
    try:
        encrypted = {disk.id for disk in parse_domain(guest.inactive_xml).disks if disk.encrypted}
    except ProtocolError:
        encrypted = set()
    for disk in disks:
        if disk.id in encrypted or not disk.source.startswith("/"):
            what = "encrypted" if disk.id in encrypted else f"on the network ({disk.source})"
            raise BackupFailed(
                f"Disk {disk.id} of {guest.name} is {what}; it cannot be read {how}.",
                hint="Back the guest up running, with method = pull or push; or exclude the disk.",
                subject=guest.name,
            )
