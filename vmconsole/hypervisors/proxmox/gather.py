"""Gathering the facts about one guest, from the node that runs it now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from vmconsole.errors import (
    CommandFailed,
    GuestBusy,
    ToolMissing,
)
from vmconsole.hypervisors.proxmox.api import Api, PveshApi
from vmconsole.hypervisors.proxmox.devices import Drive, has_iothread, left_out
from vmconsole.hypervisors.proxmox.facts import FleecingPlace, PveDisk, PveGuest, StorageFacts
from vmconsole.hypervisors.proxmox.guestconf import GuestConf, decode, digest, parse
from vmconsole.hypervisors.proxmox.guests import STATES, title
from vmconsole.hypervisors.proxmox.identity import Place
from vmconsole.hypervisors.proxmox.inventory import at_once
from vmconsole.hypervisors.proxmox.look import Ask, Found, free_bytes, look
from vmconsole.hypervisors.proxmox.loose import flag, integer, record, records, word
from vmconsole.hypervisors.proxmox.nodes import Nodes
from vmconsole.hypervisors.proxmox.properties import split_list, whole
from vmconsole.hypervisors.proxmox.qemu import QemuFacts, ask_qemu
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.qmp.client import PATIENCE, QmpClient
from vmconsole.model.guest import GuestKind, GuestState
from vmconsole.remote.machine import Machine

BOOT_ID = "/proc/sys/kernel/random/boot_id"
VZDUMP_LOCK = "/var/run/vzdump.lock"
AGENT_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class Gathered:
    """storages: by name, as the guest's node sees them. fleecing: the place to use; None when there is none."""

    guest: PveGuest
    storages: Mapping[str, StorageFacts]
    fleecing: FleecingPlace | None


def gather(nodes: Nodes, settings: ProxmoxSettings, uuid: str) -> Gathered:
    """Changes nothing. Raises GuestNotFound, GuestBusy, HostError when the cluster cannot be worked on."""
    nodes.require_quorum()
    place, identity = nodes.locate(uuid)
    machine = nodes.machine(place.node)
    files = _files(machine, place, settings)
    conf_file = files[place.path]
    if conf_file.error:
        raise GuestBusy(
            f"Guest {place.vmid} is not on {machine.name} any more: {conf_file.error}.",
            hint="It is moving to another node, or was removed; try again.",
            subject=str(place.vmid),
        )
    text = decode(conf_file.data)
    conf = parse(text, place.kind)
    process = _process(files, place.vmid) if place.kind is GuestKind.VM else ""
    api = PveshApi(machine)
    storages, (guest, qemu), agent = at_once(
        partial(look_at_storages, api, place.node),
        partial(_look_at_guest, machine, place, conf, process),
        partial(_agent_answers, machine, place, conf, process),
    )
    guest = replace(
        guest,
        uuid=identity.uuid,
        conf=text,
        digest=digest(text),
        firewall=decode(files[_firewall(place)].data),
        agent=agent,
        process=process,
        vzdump=bool(files[VZDUMP_LOCK].text),
        shared_uuid=identity.shared_with,
        disks=_disks(api, machine, place, conf, qemu, storages),
    )
    folder = files.get(settings.fleecing)
    return Gathered(guest, storages, choose_fleecing(settings, guest.disks, storages, folder))


def _files(machine: Machine, place: Place, settings: ProxmoxSettings) -> dict[str, Found]:
    questions = [
        (Ask.FILE, place.path),
        (Ask.FILE, _firewall(place)),
        (Ask.FILE, BOOT_ID),
        (Ask.PROCESS, _pid_file(place.vmid)),
        (Ask.LOCK, VZDUMP_LOCK),
    ]
    if settings.fleecing.startswith("/"):
        questions.append((Ask.SPACE, settings.fleecing))
    return {answer.name: answer for answer in look(machine, questions)}


def _firewall(place: Place) -> str:
    return f"/etc/pve/firewall/{place.vmid}.fw"


def process_of(machine: Machine, vmid: int) -> str:
    """The QEMU that a VM has on this node now, as in PveGuest.process."""
    found = look(machine, [(Ask.FILE, BOOT_ID), (Ask.PROCESS, _pid_file(vmid))])
    return _process({answer.name: answer for answer in found}, vmid)


def _pid_file(vmid: int) -> str:
    return f"/var/run/qemu-server/{vmid}.pid"


def _process(files: Mapping[str, Found], vmid: int) -> str:
    """`BOOTID:PID:START`; empty when no QEMU runs."""
    boot, process = files[BOOT_ID].text.strip(), files[_pid_file(vmid)].text
    return f"{boot}:{process}" if boot and process else ""


def _look_at_guest(
    machine: Machine, place: Place, conf: GuestConf, process: str
) -> tuple[PveGuest, QemuFacts | None]:
    """What can be said of it apart from its disks."""
    guest = PveGuest(
        uuid="",
        vmid=place.vmid,
        name=title(place, conf),
        node=place.node,
        kind=place.kind,
        state=GuestState.OFF,
        template=conf.template,
        conf="",
        lock=conf.lock,
        freeze=conf.agent.freeze,
    )
    if place.kind is GuestKind.CONTAINER:
        status = record(PveshApi(machine).get(f"{place.api}/status/current"))
        return replace(guest, state=STATES.get(word(status.get("status")), GuestState.OTHER)), None
    if not process:
        return guest, None
    keys = [drive.key for drive in conf.drives if not drive.unused]
    who = f"{guest.name} on {machine.name}"
    with QmpClient.connect(machine, guest.qmp_path, who, patience=PATIENCE) as client:
        qemu = ask_qemu(client, keys)
    found = replace(
        guest,
        state=qemu.state,
        qemu=qemu.version,
        machine=qemu.machine,
        blockdev=qemu.blockdev,
        backup_access=qemu.backup_access,
        busy=qemu.busy,
        migrating=qemu.migrating,
        paused_by_error=qemu.paused_by_error,
    )
    return found, qemu


def _agent_answers(machine: Machine, place: Place, conf: GuestConf, process: str) -> bool:
    if not process or not conf.agent.enabled:
        return False
    try:
        done = machine.run(
            ["qm", "guest", "cmd", str(place.vmid), "ping"], timeout=AGENT_TIMEOUT, check=False
        )
    except (CommandFailed, ToolMissing):
        return False
    return done.status == 0


def look_at_storages(api: Api, node: str) -> dict[str, StorageFacts]:
    """Every storage that is defined for a node, by name."""
    found = {}
    for item in records(api.get(f"/nodes/{node}/storage")):
        name = word(item.get("storage"))
        if name:
            found[name] = StorageFacts(
                name=name,
                type=word(item.get("type")),
                active=flag(item.get("active")),
                enabled=flag(item.get("enabled"), default=True),
                shared=flag(item.get("shared")),
                content=split_list(word(item.get("content"))),
                free=integer(item.get("avail"), -1),
            )
    return found


def _disks(
    api: Api,
    machine: Machine,
    place: Place,
    conf: GuestConf,
    qemu: QemuFacts | None,
    storages: Mapping[str, StorageFacts],
) -> tuple[PveDisk, ...]:
    drives = [drive for drive in conf.drives if not drive.unused]
    disks = [_disk(drive, conf, qemu) for drive in drives]
    unsized = [disk for disk in disks if disk.included and not disk.node]
    if not unsized or place.kind is GuestKind.CONTAINER:
        return tuple(disks)
    volumes = _volumes(api, place, {disk.storage for disk in unsized}, storages)
    devices = [disk.volume for disk in unsized if disk.volume.startswith("/")]
    answers = look(machine, [(Ask.SIZE, path) for path in devices]) if devices else []
    sizes = {answer.name: integer(answer.text) for answer in answers}
    return tuple(_sized(disk, volumes, sizes) if disk in unsized else disk for disk in disks)


def _disk(drive: Drive, conf: GuestConf, qemu: QemuFacts | None) -> PveDisk:
    reason = left_out(drive, conf.kind, conf.values)
    disk = PveDisk(
        key=drive.key,
        volume=whole(drive.volume),
        size=drive.size,
        format=drive.format,
        included=not reason,
        reason=reason,
        iothread=has_iothread(drive, conf.values) or (qemu is not None and qemu.has_iothread(drive.key)),
    )
    seen = qemu.disks.get(drive.key) if qemu else None
    if seen is None or reason:
        return replace(disk, allocated=disk.size)
    return replace(
        disk,
        size=seen.size,
        allocated=min(seen.allocated, seen.size) or seen.size,
        device=seen.device,
        node=seen.node,
        top=seen.top,
        throttle=seen.throttle,
        bitmaps=seen.bitmaps,
    )


def _volumes(
    api: Api, place: Place, names: Iterable[str], storages: Mapping[str, StorageFacts]
) -> dict[str, tuple[int, int]]:
    """(size, bytes in use) of the guest's volumes, by name and by what stands behind its last slash."""
    found: dict[str, tuple[int, int]] = {}
    for name in sorted(names):
        if name in storages and storages[name].active:
            answer = api.get(f"/nodes/{place.node}/storage/{name}/content", vmid=place.vmid)
            for item in records(answer):
                volume, size = word(item.get("volid")), max(0, integer(item.get("size")))
                used = max(0, integer(item.get("used")))
                # A linked clone's volume is listed with or without the volume it came from.
                found[volume] = found[_last(volume)] = size, min(used, size) or size
    return found


def _last(volume: str) -> str:
    storage, _, rest = volume.partition(":")
    return f"{storage}:…/{rest.rpartition('/')[2]}"


def _sized(disk: PveDisk, volumes: Mapping[str, tuple[int, int]], devices: Mapping[str, int]) -> PveDisk:
    size, used = volumes.get(disk.volume) or volumes.get(_last(disk.volume)) or (0, 0)
    size = size or devices.get(disk.volume, 0) or disk.size
    return replace(disk, size=size, allocated=used or size)


def choose_fleecing(
    settings: ProxmoxSettings,
    disks: Sequence[PveDisk],
    storages: Mapping[str, StorageFacts],
    folder: Found | None = None,
) -> FleecingPlace | None:
    """The configured place; without one, the storage with most space of those that hold the guest's disks."""
    wanted = settings.fleecing
    if wanted.startswith("/"):
        return FleecingPlace("folder", wanted, free_bytes(folder.text) if folder else -1)
    if wanted:
        storage = storages.get(wanted)
        usable = storage is not None and storage.active
        return FleecingPlace(
            "storage", wanted, storage.free if storage and usable else -1, storage.type if storage else ""
        )
    candidates = [storages[disk.storage] for disk in disks if disk.included and disk.storage in storages]
    usable_ones = [item for item in candidates if item.active and "images" in item.content]
    best = max(usable_ones, key=lambda item: item.free, default=None)
    return FleecingPlace("storage", best.name, best.free, best.type) if best else None
