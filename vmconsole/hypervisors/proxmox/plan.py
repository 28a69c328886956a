"""Deciding how a guest is exported. Pure: everything it needs was gathered before.

| guest | method |
| --- | --- |
| container | `vzdump` |
| template, or off | `offline` |
| running, its QEMU has Proxmox's backup-access commands | `access` |
| running, QEMU 9.0 or newer, or 7.1 or newer without a disk on an iothread | `transaction` |
| running, anything else | `vzdump` |

`export = "vzdump"` of the host makes the last one of every running machine, `export = "qmp"` refuses
what would come to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vmconsole.errors import BackupFailed
from vmconsole.hypervisors.proxmox import names
from vmconsole.hypervisors.proxmox.facts import FleecingPlace, PlanFacts, PveDisk, PveGuest
from vmconsole.hypervisors.proxmox.gather import Gathered
from vmconsole.hypervisors.proxmox.guestconf import parse
from vmconsole.hypervisors.proxmox.guests import Known, make_guest
from vmconsole.hypervisors.proxmox.identity import Identity
from vmconsole.hypervisors.proxmox.proof import ACCESS, OFFLINE, TRANSACTION, VZDUMP, Verdict, judge
from vmconsole.hypervisors.proxmox.refusals import (
    full_name,
    refuse_busy,
    refuse_second_vzdump,
    require_disks,
    require_storages,
)
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.proxmox.space import check_space
from vmconsole.interfaces import DiskPlan, ExportOptions, ExportPlan
from vmconsole.model.guest import Guest, GuestKind, GuestState
from vmconsole.model.point import Mode, RestorePoint

SAFE_QEMU = (9, 0)
"""From here on an NBD client may leave while a disk runs in an iothread; before, that kills QEMU."""
OLDEST_QEMU = (7, 1)
"""The first with bitmaps by node in exports, and with filters that break before a guest's write does."""


@dataclass(frozen=True, slots=True)
class Choice:
    method: str
    reason: str
    reserve: bool = False


def make_plan(
    gathered: Gathered,
    host: str,
    settings: ProxmoxSettings,
    repository: str,
    points: Sequence[RestorePoint],
    options: ExportOptions,
) -> ExportPlan:
    """Raises GuestBusy, OutOfSpace, BackupFailed."""
    guest = gathered.guest
    refuse_busy(guest, host)
    selected = [disk for disk in guest.disks if disk.included and disk.key not in _excluded(guest, options)]
    if not selected:
        raise BackupFailed(f"{full_name(guest, host)} has no disk to back up.", subject=guest.name)
    choice = choose_method(guest, selected, gathered.fleecing, settings, host)
    if choice.method == VZDUMP:
        refuse_second_vzdump(guest, host)
    require_storages(guest, selected, gathered.storages, choice.method, host)
    require_disks(guest, selected, choice.method, host)
    disks, proofs = _plan_disks(guest, repository, points, options, choice.method)
    fleecing = gathered.fleecing if choice.method in (ACCESS, TRANSACTION) else None
    plan = ExportPlan(
        guest=as_guest(guest, host),
        disks=disks,
        method=choice.method,
        method_reason=choice.reason,
        options=options,
        warnings=_warnings(guest, options, choice.method),
        facts=PlanFacts(
            guest=guest,
            repository=repository,
            target=names.target(repository),
            bases={key: proof.base for key, proof in proofs.items()},
            old_sizes={key: proof.old_size for key, proof in proofs.items()},
            fleecing=fleecing,
            reserve=choice.reserve,
        ),
    )
    if choice.method in (ACCESS, TRANSACTION):
        return replace(plan, warnings=plan.warnings + check_space(plan, selected, settings, host))
    return plan


def choose_method(
    guest: PveGuest,
    selected: Sequence[PveDisk],
    fleecing: FleecingPlace | None,
    settings: ProxmoxSettings,
    host: str,
) -> Choice:
    """See the table above. Raises BackupFailed where `export = "qmp"` rules out the only safe way."""
    if guest.kind is GuestKind.CONTAINER:
        return Choice(VZDUMP, "containers are read through vzdump")
    if guest.template:
        return Choice(OFFLINE, "a template never runs; its volumes are read directly")
    if not guest.running:
        return Choice(OFFLINE, "the guest is off; its volumes are read directly")
    if settings.export == "vzdump":
        return Choice(VZDUMP, 'this host is set to export = "vzdump"')
    if guest.backup_access:
        return Choice(ACCESS, "its QEMU has Proxmox's backup-access commands")
    against = _against_transaction(guest, selected)
    if not against:
        return _transaction(selected, fleecing, settings)
    if settings.export == "qmp":
        raise BackupFailed(
            f'{full_name(guest, host)} can only be read by vzdump, which export = "qmp" rules out: {against}.',
            hint='Set export = "auto" for this host. A guest that was started before Proxmox VE was '
            "upgraded has to be stopped and started once to run on the new QEMU.",
            subject=guest.name,
        )
    return Choice(VZDUMP, against)


def _against_transaction(guest: PveGuest, selected: Sequence[PveDisk]) -> str:
    """Why QEMU's own commands will not do; empty when they will."""
    version = ".".join(map(str, guest.qemu)) if guest.qemu else "of unknown version"
    threaded = [disk.key for disk in selected if disk.iothread]
    if guest.qemu is None or guest.qemu < OLDEST_QEMU:
        return f"QEMU {version} is too old for anything else"
    if threaded and guest.qemu < SAFE_QEMU:
        disks = f"disk {threaded[0]} has" if len(threaded) == 1 else f"disks {', '.join(threaded)} have"
        return f"{disks} an iothread, and QEMU {version} can crash when it is read any other way"
    return ""


def _transaction(
    selected: Sequence[PveDisk], fleecing: FleecingPlace | None, settings: ProxmoxSettings
) -> Choice:
    why = "its QEMU has no backup-access commands, so QEMU's own are used"
    need = sum(disk.size for disk in selected) + settings.fleecing_min_free
    if fleecing is not None and fleecing.reservable and fleecing.free >= need:
        return Choice(
            TRANSACTION, f"{why}; space for whole disks is reserved in {fleecing.name}", reserve=True
        )
    return Choice(TRANSACTION, f"{why}; should the fleecing space run full, the backup breaks, not the guest")


def _plan_disks(
    guest: PveGuest, repository: str, points: Sequence[RestorePoint], options: ExportOptions, method: str
) -> tuple[tuple[DiskPlan, ...], dict[str, Verdict]]:
    if guest.kind is GuestKind.CONTAINER:
        return _plan_container(guest), {}
    plans, proofs = [], {}
    excluded = _excluded(guest, options)
    for disk in guest.disks:
        plan = DiskPlan(disk.key, disk.size, disk.format, disk.volume, Mode.SKIPPED, disk.reason)
        if disk.included and disk.key in excluded:
            plan = replace(plan, reason="excluded in the configuration")
        elif disk.included:
            verdict = judge(guest, disk, points, repository, method)
            reason = options.full_reason or verdict.reason
            if reason:
                plan = replace(
                    plan, mode=Mode.FULL, reason=reason, bytes_expected=disk.allocated or disk.size
                )
            else:
                plan = replace(
                    plan,
                    mode=Mode.INCREMENTAL,
                    reason="",
                    parent=verdict.parent,
                    bytes_expected=verdict.expected,
                )
                proofs[disk.key] = verdict
        plans.append(plan)
    return tuple(plans), proofs


def _plan_container(guest: PveGuest) -> tuple[DiskPlan, ...]:
    """One tar holds the root file system and every mount point that is backed up."""
    held = [disk for disk in guest.disks if disk.included]
    root = guest.disk("rootfs")
    tar = DiskPlan(
        id=root.key,
        size=root.size,
        format="tar",
        source=root.volume,
        mode=Mode.FULL,
        reason="containers are read whole every time",
        bytes_expected=sum(disk.allocated or disk.size for disk in held),
    )
    return (
        tar,
        *(
            DiskPlan(disk.key, disk.size, disk.format, disk.volume, Mode.SKIPPED, disk.reason)
            for disk in guest.disks
            if not disk.included
        ),
    )


def _excluded(guest: PveGuest, options: ExportOptions) -> tuple[str, ...]:
    """vzdump takes no list of mount points: what a container leaves out is set on the mount point itself."""
    return () if guest.kind is GuestKind.CONTAINER else options.exclude_disks


def as_guest(guest: PveGuest, host: str) -> Guest:
    conf = parse(guest.conf, guest.kind)
    known = Known(
        host=host,
        state=guest.state,
        agent=guest.agent,
        sizes={disk.key: disk.size for disk in guest.disks},
    )
    return make_guest(guest.place, Identity(guest.uuid, guest.shared_uuid), conf, known)


def _warnings(guest: PveGuest, options: ExportOptions, method: str) -> tuple[str, ...]:
    found = []
    if guest.kind is GuestKind.VM and guest.state is GuestState.RUNNING and options.freeze:
        if not guest.freeze:
            found.append("Freezing is switched off in its agent option: this backup is crash-consistent.")
        elif not guest.agent:
            found.append("The guest agent does not answer: this backup is crash-consistent.")
    if guest.paused_by_error:
        found.append("The guest is paused because of an I/O error; this backup holds it as it is.")
    if guest.shared_uuid:
        others = ", ".join(map(str, guest.shared_uuid))
        found.append(
            f"It has the same SMBIOS uuid as {others}; give one of them a new one, or names may mix."
        )
    if guest.kind is GuestKind.CONTAINER and options.exclude_disks:
        found.append("Mount points of a container are left out by backup=0 on them, not by exclude_disks.")
    if method == VZDUMP and guest.kind is GuestKind.VM and options.exclude_disks:
        found.append("vzdump reads excluded disks as well; they are not stored.")
    return tuple(found)
