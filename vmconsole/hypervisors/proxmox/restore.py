"""From a restore point to a guest on a Proxmox node: everything that is checked before a byte moves.

A virtual machine becomes a VMA archive for `qmrestore`, a container a tar for `pct restore`: Proxmox
allocates the volumes, and nothing is copied twice. Points of libvirt guests are translated first.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from uuid import UUID, uuid4

from vmconsole.errors import RestoreFailed
from vmconsole.hypervisors.portable.from_xml import from_domain_xml
from vmconsole.hypervisors.portable.hardware import Firmware, keep_disks
from vmconsole.hypervisors.portable.notes import Notes
from vmconsole.hypervisors.portable.to_conf import Node, to_qemu_conf
from vmconsole.hypervisors.portable.words import dns_name
from vmconsole.hypervisors.proxmox import place
from vmconsole.hypervisors.proxmox.container import ContainerGiven, plan_container
from vmconsole.hypervisors.proxmox.guestconf import (
    DiskMap,
    archive_device,
    decode,
    encode,
    parse,
    vzdump_conf,
)
from vmconsole.hypervisors.proxmox.making import Making, unmake
from vmconsole.hypervisors.proxmox.place import Cluster, Need, Place
from vmconsole.hypervisors.proxmox.renew import Given, renew, wanted_media
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.proxmox.target import Job, ProxmoxTarget, TarStream, VmaPlan, VmaStream
from vmconsole.hypervisors.vma.layout import MAX_BLOB
from vmconsole.interfaces import Context, GuestRestore
from vmconsole.model.guest import GuestKind
from vmconsole.model.point import DiskPoint, RestorePoint
from vmconsole.model.run import JournalEntry

CONF = "config/qemu-server.conf"
CONTAINER_CONF = "config/pct.conf"
FIREWALL = "config/firewall.fw"
DOMAIN = "config/libvirt.xml"
NVRAM = "firmware/nvram.fd"
EFI_DISK = "efidisk0"
ROOTFS = "rootfs"

_FORMATS = frozenset({"raw", "qcow2", "vmdk"})


def create_guest(
    nodes: Cluster,
    settings: ProxmoxSettings,
    point: RestorePoint,
    files: Mapping[str, bytes],
    request: GuestRestore,
    context: Context,
    *,
    new_uuid: Callable[[], UUID] = uuid4,
    new_token: Callable[[], str] = lambda: secrets.token_hex(8),
) -> ProxmoxTarget:
    """Check everything; nothing is made before the first disk is opened. See Hypervisor.create.

    request.storage: STORAGE, or NODE/STORAGE. Raises GuestExists, RestoreFailed, HostError.
    """
    for name in dict.fromkeys((request.name, dns_name(request.name))):
        place.check_name(nodes, name)
    planning = _Planning(nodes, settings, point, files, request, context, new_uuid, new_token())
    if CONTAINER_CONF in files:
        job = planning.container()
    elif CONF in files:
        job = planning.same_kind()
    elif DOMAIN in files:
        job = planning.from_libvirt()
    else:
        raise RestoreFailed(
            f"{point.archive} holds no configuration of a guest ({CONF}, {CONTAINER_CONF} or {DOMAIN}).",
            hint="Restore its disks with --to FOLDER and make a guest around them.",
            subject=point.archive,
        )
    return ProxmoxTarget(job, request, context)


def clean_create(nodes: Cluster, settings: ProxmoxSettings, entry: JournalEntry) -> str:
    """Undo a restore that died. See Hypervisor.clean.

    A guest that Proxmox has in whole is complete, because its configuration comes last: it stays.
    """
    del settings
    making = Making.read(entry.payload)
    return unmake(nodes.machine(making.node), making, undo=False)


class _Planning:
    def __init__(
        self,
        nodes: Cluster,
        settings: ProxmoxSettings,
        point: RestorePoint,
        files: Mapping[str, bytes],
        request: GuestRestore,
        context: Context,
        new_uuid: Callable[[], UUID],
        token: str,
    ) -> None:
        self.nodes = nodes
        self.networks = settings.networks
        self.point = point
        self.files = files
        self.request = request
        self.context = context
        self.new_uuid = new_uuid
        self.token = token
        self.mark = Making("", "", "qm", token, "").mark

    def same_kind(self) -> Job:
        """A virtual machine of Proxmox: its own configuration, made fit for a new life."""
        text = decode(self.files[CONF])
        conf = parse(vzdump_conf(text, ()), GuestKind.VM)
        there = self._find([drive.storage for drive in conf.drives if not drive.cdrom])
        disks = {disk.id: disk for disk in self.point.stored_disks}
        given = Given(
            name=self.request.name,
            uuid=self.new_uuid(),
            storage=there.storage,
            mark=self.mark,
            disks=disks,
            networks=self.networks,
            bridges=place.bridges(there.machine),
            media=place.media(self.nodes, there.node, wanted_media(text)),
        )
        renewed = renew(text, given)
        self._all_disks_known(renewed.keys)
        keys = {name: name for name in renewed.keys}
        return self._virtual_machine(
            there, renewed.text, keys, {}, renewed.later, renewed.description, renewed.notes
        )

    def from_libvirt(self) -> Job:
        """A virtual machine of libvirt: described anew."""
        notes = Notes()
        everything, said = from_domain_xml(self.files[DOMAIN])
        notes.extend(said)
        hardware, said = keep_disks(everything, {disk.id for disk in self.point.stored_disks})
        notes.extend(said)
        self._all_disks_known([disk.id for disk in hardware.disks])
        sizes = {disk.id: disk.size for disk in self.point.stored_disks}
        disks = tuple(replace(disk, size=sizes[disk.id]) for disk in hardware.disks)
        there = self._find([])
        node = Node(
            storage=there.storage,
            networks=self.networks,
            bridges=place.bridges(there.machine),
            machines=place.machines(self.nodes, there.node),
        )
        variables = self.files.get(NVRAM, b"") if hardware.firmware is Firmware.UEFI else b""
        description = hardware.description
        marked = replace(
            hardware,
            name=self.request.name,
            disks=disks,
            description=f"{self.mark}\n{description}" if description else self.mark,
        )
        draft, said = to_qemu_conf(marked, node, self.new_uuid(), variables=len(variables))
        notes.extend(said)
        ready = {EFI_DISK: variables} if draft.efidisk else {}
        return self._virtual_machine(
            there, draft.text, draft.disks, ready, draft.later, description, notes.all
        )

    def container(self) -> Job:
        """A container of Proxmox: its tar, and what pct must know before it reads it."""
        disks = self.point.stored_disks
        if [disk.id for disk in disks] != [ROOTFS]:
            raise RestoreFailed(
                f"{self.point.archive} is a container without its files ({ROOTFS}).",
                hint="Choose another restore point of it.",
                subject=self.point.archive,
            )
        text, tar = decode(self.files[CONTAINER_CONF]), disks[0].size
        conf = parse(text, GuestKind.CONTAINER)
        given = ContainerGiven(self.request.name, "any", self.mark, tar, self.networks)
        # Once to know how large it becomes, once for the storage that has this space.
        need = Need(tar, tar, plan_container(text, given).size)
        preferred = [drive.storage for drive in conf.drives]
        there = place.find(self.nodes, self.request.storage, "rootdir", need, preferred)
        bridges = place.bridges(there.machine)
        plan = plan_container(text, replace(given, storage=there.storage, bridges=bridges))
        return Job(
            host=self.nodes.host,
            place=there,
            program="pct",
            token=self.token,
            description=plan.description,
            disks=(ROOTFS,),
            argv=lambda vmid: ["pct", "restore", vmid, "-", *plan.options, "--unique", "1"],
            start=lambda write: TarStream(write, tar),
            new_vmid=lambda: place.new_vmid(self.nodes),
            later=plan.later,
            remove=plan.remove,
            notes=plan.notes,
        )

    def _virtual_machine(
        self,
        there: Place,
        text: str,
        keys: Mapping[str, str],
        ready: Mapping[str, bytes],
        later: Mapping[str, str],
        description: str,
        notes: Sequence[str],
    ) -> Job:
        """keys: disk id → key in the configuration. ready: key → content."""
        disks = [disk for disk in self.point.stored_disks if disk.id in keys]
        maps = [DiskMap(key, there.storage, "raw") for key in ready]
        maps += [DiskMap(keys[disk.id], there.storage, _format(disk)) for disk in disks]
        plan = VmaPlan(
            configs=self._configs(vzdump_conf(text, maps)),
            devices={disk.id: (archive_device(keys[disk.id]), disk.size) for disk in disks},
            uuid=self.new_uuid(),
            ctime=int(self.context.clock.now().timestamp()),
            ready={archive_device(key): content for key, content in ready.items()},
        )
        return Job(
            host=self.nodes.host,
            place=there,
            program="qm",
            token=self.token,
            description=description,
            disks=tuple(disk.id for disk in disks),
            argv=lambda vmid: ["qmrestore", "-", vmid, "--storage", there.storage, "--unique", "1"],
            start=lambda write: VmaStream(write, plan),
            new_vmid=lambda: place.new_vmid(self.nodes),
            later=later,
            notes=tuple(notes),
        )

    def _configs(self, text: str) -> dict[str, bytes]:
        content = encode(text)
        if len(content) > MAX_BLOB:
            raise RestoreFailed(
                f"The configuration in {self.point.archive} is too long for Proxmox ({len(content)} bytes).",
                hint="Restore its disks with --to FOLDER and make a guest around them.",
                subject=self.point.archive,
            )
        configs = {"qemu-server.conf": content}
        firewall = self.files.get(FIREWALL, b"")
        if firewall.strip() and len(firewall) <= MAX_BLOB:
            configs["qemu-server.fw"] = firewall
        return configs

    def _find(self, preferred: Sequence[str]) -> Place:
        need = Need.of(self.point.stored_disks)
        return place.find(self.nodes, self.request.storage, "images", need, preferred)

    def _all_disks_known(self, keys: Collection[str]) -> None:
        strange = [disk.id for disk in self.point.stored_disks if disk.id not in keys]
        if strange:
            raise RestoreFailed(
                f"The configuration in {self.point.archive} does not mention its disks {', '.join(strange)}.",
                hint="Restore its disks with --to FOLDER and make a guest around them.",
                subject=self.point.archive,
            )


def _format(disk: DiskPoint) -> str:
    return disk.format if disk.format in _FORMATS else "raw"
