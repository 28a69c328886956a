"""What the two ways of exporting a running guest have in common: its disks, fleecing images, and cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vmconsole.errors import BackupFailed, ProtocolError
from vmconsole.hypervisors.proxmox import document as documents
from vmconsole.hypervisors.proxmox import fleecing, graph, names
from vmconsole.hypervisors.proxmox.devices import Drive
from vmconsole.hypervisors.proxmox.document import Document
from vmconsole.hypervisors.proxmox.facts import PlanFacts, PveDisk, point_facts
from vmconsole.hypervisors.proxmox.fleecing import Image
from vmconsole.hypervisors.proxmox.graph import GraphDisk, Plain, Shown, Step
from vmconsole.hypervisors.proxmox.guestconf import parse
from vmconsole.hypervisors.proxmox.hold import Hold, begin, boot_id, members
from vmconsole.hypervisors.proxmox.nbd import Facet, NbdExport, open_disks
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.interfaces import Context, DiskPlan, ExportPlan
from vmconsole.model.guest import GuestState
from vmconsole.model.point import Mode
from vmconsole.remote.machine import Machine

TPM = "tpmstate0"


@dataclass(frozen=True, slots=True)
class Parts:
    """The disks that are exported: those in QEMU, and those that are not. images: by the former's key."""

    disks: tuple[GraphDisk, ...]
    loose: tuple[PveDisk, ...]
    images: tuple[Image, ...]


def parts_of(plan: ExportPlan, run: str) -> Parts:
    """Raises BackupFailed when there is no place for fleecing."""
    facts: PlanFacts = plan.facts
    guest = facts.guest
    chosen = [guest.disk(disk.id) for disk in plan.disks if disk.mode is not Mode.SKIPPED]
    inside = [disk for disk in chosen if disk.node]
    if facts.fleecing is None:
        raise BackupFailed(
            f"There is no place for what {guest.name} overwrites while it is read.",
            hint="Set `fleecing` for this host.",
            subject=guest.name,
        )
    drives = {drive.key: drive for drive in parse(guest.conf, guest.kind).drives}
    ours = names.bitmap_prefix(facts.repository)
    return Parts(
        disks=tuple(_graph_disk(disk, drives.get(disk.key), facts, plan, ours) for disk in inside),
        loose=tuple(disk for disk in chosen if not disk.node),
        images=tuple(
            fleecing.images(facts.fleecing, guest.vmid, run, {disk.key: disk.size for disk in inside})
        ),
    )


def _graph_disk(
    disk: PveDisk, drive: Drive | None, facts: PlanFacts, plan: ExportPlan, ours: str
) -> GraphDisk:
    options = drive.options if drive else {}
    discard = options.get("discard") == "on"
    zeroes = "off" if options.get("detect_zeroes") == "0" else "unmap" if discard else "on"
    incremental = any(item.id == disk.key and item.mode is Mode.INCREMENTAL for item in plan.disks)
    return GraphDisk(
        key=disk.key,
        device=disk.device,
        node=disk.node,
        size=disk.size,
        throttle=disk.throttle,
        base=facts.bases[disk.key] if incremental else "",
        ours=tuple(item.name for item in disk.bitmaps if item.name.startswith(ours)),
        discard=discard,
        zeroes=zeroes,
    )


def document_of(
    machine: Machine,
    settings: ProxmoxSettings,
    plan: ExportPlan,
    context: Context,
    parts: Parts,
    undo: Sequence[Step],
    commit: Sequence[Step],
) -> Document:
    """undo, commit: what is to be done in QEMU; freeing the fleecing images comes on top."""
    facts: PlanFacts = plan.facts
    guest, options = facts.guest, plan.options
    boot, _, process = guest.process.partition(":")
    freed = fleecing.free(parts.images)
    return Document(
        vmid=guest.vmid,
        run=context.run,
        folder=documents.folder_of(guest.vmid),
        boot=boot or boot_id(machine, guest),
        process=process,
        qmp=guest.qmp_path,
        events=documents.EVENTS,
        freeze=options.freeze and guest.agent and guest.freeze and guest.state is GuestState.RUNNING,
        budget=options.freeze_budget,
        patience=options.agent_timeout,
        watch=_watch(facts, settings),
        undo=(*undo, *freed),
        commit=(*commit, *freed),
    )


def _watch(facts: PlanFacts, settings: ProxmoxSettings) -> Mapping[str, Any] | None:
    """Nothing to watch where all space is taken beforehand."""
    place = facts.fleecing
    if place is None or facts.reserve or place.thick:
        return None
    return {place.kind: place.name, "reserve": settings.fleecing_min_free}


def locate_all(hold: Hold, plan: ExportPlan, parts: Parts) -> tuple[tuple[GraphDisk, ...], tuple[Plain, ...]]:
    """Make the fleecing images; the disks with their images' paths, and the volumes QEMU has not open."""
    facts: PlanFacts = plan.facts
    steps = fleecing.allocate(parts.images, facts.guest.vmid)
    for disk in parts.loose:
        if not disk.volume.startswith("/"):
            steps += fleecing.locate(disk.key, disk.volume)
    found = hold.do(steps)
    paths = {image.key: image.path or volume_path(found, image.key) for image in parts.images}
    plain = [
        Plain(
            disk.key,
            disk.volume if disk.volume.startswith("/") else volume_path(found, disk.key),
            disk.format or "raw",
        )
        for disk in parts.loose
    ]
    if facts.reserve:
        hold.do(fleecing.reserve(paths, parts.images))
    return tuple(replace(disk, image=paths[disk.key]) for disk in parts.disks), tuple(plain)


def volume_path(found: Mapping[str, Any], key: str) -> str:
    """Where a volume is, from the results of fleecing.locate(). Raises BackupFailed when QEMU cannot use it."""
    lines = [line for line in str(found.get(f"path-{key}", "")).splitlines() if line.strip()]
    path = lines[-1].strip() if lines else ""
    try:
        graph.storage_node(path)
    except ValueError as error:
        raise BackupFailed(
            f"QEMU could not use the volume for {key}: its path is “{path[:200]}”.",
            hint="Volumes that are files, block devices or RBD images can be used; set another `fleecing`.",
        ) from error
    return path


Facets = Callable[[DiskPlan], Facet]


def export(
    machine: Machine,
    settings: ProxmoxSettings,
    plan: ExportPlan,
    context: Context,
    document: Document,
    work: Callable[[Hold], tuple[Any, list[Shown]]],
    facet: Facets,
    release: Sequence[Step],
) -> NbdExport:
    """From the lock to open disks. work: prepares and cuts; returns the cut, and what is to be shown."""
    facts: PlanFacts = plan.facts
    hold = begin(machine, plan, context, document)
    try:
        cut, shown = work(hold)
        hold.do(graph.serve(hold.socket, shown))
        disks = open_disks(
            machine,
            hold,
            [facet(disk) for disk in plan.disks if disk.mode is not Mode.SKIPPED],
            context,
            settings.nbd_connections,
        )
    except BaseException:
        hold.rollback()
        raise
    return NbdExport(
        cut=replace(cut, facts=point_facts(plan.method, facts)),
        disks=disks,
        files=members(facts.guest),
        hold=hold,
        release=lambda: _ignore(hold.do(release)),
    )


def _ignore(_: object) -> None:
    """The results of a release say nothing."""


def results_list(results: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = results.get(name)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ProtocolError(f"QEMU's answer ({name}) is not a list of objects.")
    return found
