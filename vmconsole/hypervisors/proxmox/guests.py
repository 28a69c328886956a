"""From a guest's configuration to the guest as the rest of vmconsole sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vmconsole.hypervisors.proxmox.devices import Drive, left_out
from vmconsole.hypervisors.proxmox.guestconf import GuestConf
from vmconsole.hypervisors.proxmox.identity import Identity, Place
from vmconsole.hypervisors.proxmox.properties import whole
from vmconsole.model.guest import Disk, Guest, GuestKind, GuestState, Tracking

STATES = {
    "running": GuestState.RUNNING,
    "stopped": GuestState.OFF,
    "paused": GuestState.PAUSED,
    "suspended": GuestState.PAUSED,
    "prelaunch": GuestState.PAUSED,
    "io-error": GuestState.PAUSED,
    "internal-error": GuestState.PAUSED,
    "guest-panicked": GuestState.PAUSED,
    "watchdog": GuestState.PAUSED,
}
"""What Proxmox calls a status: QEMU's run state, or `stopped`. Anything else is OTHER: migrating, unknown …"""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a guest besides its configuration.

    readable: its configuration could be read. agent: whether the guest agent answers; None when it
    was not asked, and what is configured counts.
    """

    host: str
    state: GuestState = GuestState.OTHER
    node_online: bool = True
    readable: bool = True
    agent: bool | None = None
    name: str = ""
    pool: str = ""
    ha: str = ""
    in_host_jobs: bool | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Of disks by key, in bytes, where something better than the configuration has told."""


def make_guest(place: Place, identity: Identity, conf: GuestConf, known: Known) -> Guest:
    agent = conf.agent.enabled and known.state is GuestState.RUNNING
    return Guest(
        uuid=identity.uuid,
        id=str(place.vmid),
        name=title(place, conf, known.name),
        host=known.host,
        kind=place.kind,
        state=known.state,
        agent=agent if known.agent is None else known.agent,
        tags=conf.tags,
        pool=known.pool,
        disks=tuple(disk(drive, conf, known) for drive in conf.drives),
        warnings=warnings(place, identity, conf, known),
        node=place.node,
        template=conf.template,
        ha=known.ha,
        lock=conf.lock,
        in_host_jobs=known.in_host_jobs,
    )


def title(place: Place, conf: GuestConf, told: str = "") -> str:
    """Its name as Proxmox shows it; a guest without one is `VM 100` or `CT100`."""
    return (
        conf.name or told or (f"CT{place.vmid}" if place.kind is GuestKind.CONTAINER else f"VM {place.vmid}")
    )


def disk(drive: Drive, conf: GuestConf, known: Known) -> Disk:
    reason = left_out(drive, conf.kind, conf.values)
    tracking = Tracking.NONE
    if not reason:
        reason = untracked(drive, conf)
        tracking = Tracking.NONE if reason else Tracking.BITMAP
    return Disk(
        id=drive.key,
        size=known.sizes.get(drive.key, 0) or drive.size,
        format="" if drive.cdrom else drive.format,
        source=whole(drive.volume),
        included=not left_out(drive, conf.kind, conf.values),
        reason=reason,
        tracking=tracking,
    )


def untracked(drive: Drive, conf: GuestConf) -> str:
    """Why changes of a disk that is backed up cannot be recorded; empty when they can."""
    if conf.kind is GuestKind.CONTAINER:
        return "containers are read whole every time"
    if conf.template:
        return "a template does not change and is read whole"
    if drive.key == "tpmstate0":
        return "the TPM's state is small and read whole every time"
    return ""


def warnings(place: Place, identity: Identity, conf: GuestConf, known: Known) -> tuple[str, ...]:
    """What a backup of this guest will not hold, or will not do, as far as one can see now."""
    found = []
    if not known.readable:
        found.append(
            "Its configuration cannot be read now: its disks, and which guest it was, are not known."
        )
    if not known.node_online:
        found.append(f"Its node {place.node} is offline: it cannot be backed up, and its state is not known.")
    if conf.lock:
        found.append(f"It is locked by Proxmox ({conf.lock}).")
    if identity.shared_with:
        others = ", ".join(map(str, identity.shared_with))
        found.append(f"It has the same SMBIOS uuid as {others}: a copy made without a new one?")
    if conf.unclear:
        found.append("Its configuration has lines that are not understood; it may be half-written.")
    if not known.readable:
        return tuple(found)
    if place.kind is GuestKind.VM and not conf.agent.enabled and not conf.template:
        found.append("The guest agent is not enabled: backups are crash-consistent.")
    if passed := [*conf.numbered("hostpci"), *conf.numbered("usb"), *conf.numbered("virtiofs")]:
        found.append(f"It uses devices of the node ({', '.join(passed)}), which are not backed up.")
    included = [drive for drive in conf.drives if not left_out(drive, conf.kind, conf.values)]
    found += _about_disks(included, known)
    return tuple(found)


def _about_disks(included: Sequence[Drive], known: Known) -> list[str]:
    found = [
        f"Disk {drive.key} is {whole(drive.volume)} of the node; a restore makes it a volume."
        for drive in included
        if drive.volume.startswith("/")
    ]
    unknown = [drive.key for drive in included if not (known.sizes.get(drive.key, 0) or drive.size)]
    if unknown:
        found.append(f"The size of {', '.join(unknown)} is not in its configuration.")
    if not included:
        found.append("It has no disk that can be backed up.")
    return found
