"""Guests of a Proxmox host: described as a domain first, and then restored like any other.

Its disks get libvirt's names (scsi0 becomes sda), so the archive's disks/scsi0.raw goes into sda. The
UEFI variables, which are a disk there (efidisk0), become the NVRAM file. The state of a TPM
(tpmstate0) cannot be taken over: libvirt keeps it in another form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vmconsole.errors import RestoreFailed
from vmconsole.hypervisors.libvirt import members
from vmconsole.hypervisors.libvirt.target import LibvirtTarget
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.hypervisors.portable.from_conf import from_qemu_conf, variables_size
from vmconsole.hypervisors.portable.hardware import Hardware, keep_disks
from vmconsole.hypervisors.portable.notes import Notes
from vmconsole.hypervisors.portable.to_xml import Host, to_domain_xml
from vmconsole.hypervisors.portable.words import NETWORK
from vmconsole.interfaces import DiskTarget
from vmconsole.model.point import DiskPoint, RestorePoint

HYPERVISOR = "proxmox"
CONF = "config/qemu-server.conf"
FIREWALL = "config/firewall.fw"
CONTAINER_CONF = "config/pct.conf"
EFI_DISK = "efidisk0"
TPM_DISK = "tpmstate0"
VARIABLES = 540672
"""Bytes of a UEFI variable store of 4 MiB firmware (efitype=4m), the only size libvirt hosts now use."""

_PRESENT = r"""
for name in "$@"; do
    if [ -e "/sys/class/net/$name" ]; then printf '%s\n' "$name"; fi
done
"""


@dataclass(frozen=True, slots=True)
class Foreign:
    """A point as if it were of libvirt. disks: id in the archive → id here. variables: of efidisk0."""

    point: RestorePoint
    files: Mapping[str, bytes]
    disks: Mapping[str, str]
    variables: bool
    notes: Sequence[str]


def translate(
    virsh: Virsh, point: RestorePoint, files: Mapping[str, bytes], networks: Mapping[str, str]
) -> Foreign:
    """networks: as in the configuration of the host. Raises RestoreFailed; changes nothing."""
    conf = files.get(CONF)
    if conf is None:
        container = CONTAINER_CONF in files
        raise RestoreFailed(
            f"{point.archive} is a container; libvirt hosts run virtual machines only."
            if container
            else f"{point.archive} holds no Proxmox configuration ({CONF}).",
            hint="Restore it to a Proxmox host."
            if container
            else "Restore its disks with --to FOLDER and define a guest around them.",
            subject=point.archive,
        )
    text = conf.decode("utf-8", "replace")
    notes = Notes()
    everything, said = from_qemu_conf(text)
    notes.extend(said)
    if files.get(FIREWALL, b"").strip():
        notes.add("Proxmox's firewall rules stay behind.")
    stored = {disk.id: disk for disk in point.stored_disks}
    hardware, said = keep_disks(everything, stored)
    notes.extend(said)
    for disk in hardware.disks:
        if disk.readonly:
            notes.add(f"Disk {disk.id} was read-only; it can be written now.")
    variables = EFI_DISK in stored and variables_size(text) == VARIABLES
    host = _look(virsh, hardware, networks)
    draft, said = to_domain_xml(hardware, host, variables=variables)
    notes.extend(said)
    _all_disks_known(point, [*draft.disks, EFI_DISK, TPM_DISK])
    # New disks are qcow2 where files can be: only these record what changes, for the next backups.
    disks = tuple(
        replace(disk, id=draft.disks[disk.id], format="qcow2")
        for disk in point.stored_disks
        if disk.id in draft.disks
    )
    new_files = {members.DOMAIN: draft.document}
    if variables:
        # Empty until efidisk0 comes.
        new_files[members.NVRAM] = b""
    return Foreign(replace(point, disks=disks), new_files, draft.disks, variables, notes.all)


class ForeignTarget:
    """See GuestTarget: a LibvirtTarget whose disks are asked for by their names in the archive."""

    def __init__(self, target: LibvirtTarget, foreign: Foreign) -> None:
        self._target = target
        self._foreign = foreign

    @property
    def notes(self) -> Sequence[str]:
        return [*self._foreign.notes, *self._target.notes]

    def open_disk(self, disk: DiskPoint) -> DiskTarget:
        if disk.id == EFI_DISK:
            return _Variables(self._target if self._foreign.variables else None)
        if disk.id == TPM_DISK:
            return _Variables(None)
        return self._target.open_disk(replace(disk, id=self._foreign.disks.get(disk.id, disk.id)))

    def finish(self) -> None:
        self._target.finish()

    def rollback(self) -> None:
        self._target.rollback()


class _Variables:
    """A small disk that becomes the NVRAM file, or nothing without a target."""

    def __init__(self, target: LibvirtTarget | None) -> None:
        self._target = target
        self._content = bytearray(VARIABLES)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        # What is beyond belongs to the volume, not to the variables.
        kept = bytes(data[: max(0, VARIABLES - offset)])
        self._content[offset : offset + len(kept)] = kept

    def close(self) -> None:
        if self._target is not None:
            self._target.fill_nvram(bytes(self._content))


def _look(virsh: Virsh, hardware: Hardware, networks: Mapping[str, str]) -> Host:
    """The networks and bridges of the host that the cards could be plugged into."""
    known = {line.strip() for line in virsh.run("net-list", "--all", "--name").splitlines() if line.strip()}
    names = {*networks.values(), *(nic.network for nic in hardware.nics)}
    asked = sorted(name for name in names if NETWORK.fullmatch(name))
    found = virsh.machine.script(_PRESENT, asked).text.splitlines() if asked else []
    return Host(networks, known, set(found) & set(asked))


def _all_disks_known(point: RestorePoint, known: Sequence[str]) -> None:
    strange = [disk.id for disk in point.stored_disks if disk.id not in known]
    if strange:
        raise RestoreFailed(
            f"The configuration in {point.archive} does not mention its disks {', '.join(strange)}.",
            hint="Restore its disks with --to FOLDER and define a guest around them.",
            subject=point.archive,
        )
