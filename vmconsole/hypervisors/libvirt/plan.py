"""Deciding how a guest is exported. Pure: everything it needs was gathered before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vmconsole.errors import BackupFailed, GuestBusy, OutOfSpace, ProtocolError
from vmconsole.hypervisors.libvirt import names
from vmconsole.hypervisors.libvirt.facts import GuestFacts, PlanFacts
from vmconsole.hypervisors.libvirt.gather import Gathered
from vmconsole.hypervisors.libvirt.inventory import guest as as_guest
from vmconsole.hypervisors.libvirt.proof import Verdict, judge
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.hypervisors.libvirt.xml import backup_files, backup_socket, parse_domain
from vmconsole.interfaces import DiskPlan, ExportOptions, ExportPlan
from vmconsole.model.guest import GuestState
from vmconsole.model.point import Mode, RestorePoint

SAFE_QEMU = (9, 0)
"""From here on an NBD client may leave while a disk runs in an iothread; before, that kills QEMU."""


def make_plan(
    gathered: Gathered,
    host: str,
    settings: LibvirtSettings,
    repository: str,
    points: Sequence[RestorePoint],
    options: ExportOptions,
) -> ExportPlan:
    """Raises GuestBusy, OutOfSpace, BackupFailed."""
    guest = gathered.guest
    refuse_busy(guest, host)
    disks, proofs = _plan_disks(guest, repository, points, options)
    if all(disk.mode is Mode.SKIPPED for disk in disks):
        raise BackupFailed(f"{guest.name} on {host} has no disk to back up.", subject=guest.name)
    expected = sum(disk.bytes_expected for disk in disks)
    method, why = choose_method(gathered, settings, disks, expected, host)
    domain = parse_domain(guest.xml)
    plan = ExportPlan(
        guest=as_guest(domain, guest.state, list(guest.disks), host),
        disks=disks,
        method=method,
        method_reason=why,
        options=options,
        warnings=_warnings(guest, options),
        facts=PlanFacts(
            guest=guest,
            repository=repository,
            bases={disk: proof.base for disk, proof in proofs.items()},
            old_sizes={disk: proof.old_size for disk, proof in proofs.items()},
            scratch=gathered.scratch,
            scratch_free=gathered.scratch_free,
        ),
    )
    return replace(plan, warnings=plan.warnings + _check_space(plan, settings, host))


def refuse_busy(guest: GuestFacts, host: str) -> None:
    """Raise GuestBusy when a job holds the guest, or it is on its way up or down."""
    if guest.job_xml:
        raise _backup_running(guest, host)
    if guest.job:
        raise GuestBusy(
            f"{guest.name} on {host} is held by a job of libvirt: {guest.job}.",
            hint=f"Wait until it has ended: virsh domjobinfo {guest.uuid}",
            subject=guest.name,
        )
    if guest.state is GuestState.OTHER:
        raise GuestBusy(
            f"{guest.name} on {host} is neither running, paused nor off; it may be shutting down.",
            hint=f"Look at it: virsh domstate {guest.uuid} --reason",
            subject=guest.name,
        )


def _backup_running(guest: GuestFacts, host: str) -> GuestBusy:
    try:
        traces = [backup_socket(guest.job_xml), *backup_files(guest.job_xml)]
    except ProtocolError:
        traces = []
    if any(names.is_ours(trace) for trace in traces):
        return GuestBusy(
            f"{guest.name} on {host} has a backup job that another run of vmconsole started.",
            hint="If no run is working on it any more: vmconsole doctor --clean",
            subject=guest.name,
        )
    where = next((trace for trace in traces if trace), "an unknown place")
    return GuestBusy(
        f"{guest.name} on {host} is being backed up by another program (through {where}).",
        hint="Let that program finish, or keep two backup programs off the same guest.",
        subject=guest.name,
    )


def _plan_disks(
    guest: GuestFacts, repository: str, points: Sequence[RestorePoint], options: ExportOptions
) -> tuple[tuple[DiskPlan, ...], dict[str, Verdict]]:
    plans, proofs = [], {}
    for disk in guest.disks:
        plan = DiskPlan(disk.id, disk.size, disk.format, disk.source, Mode.SKIPPED, disk.reason)
        if disk.included and disk.id in options.exclude_disks:
            plan = replace(plan, reason="excluded in the configuration")
        elif disk.included:
            verdict = judge(guest, disk, points, repository)
            reason = options.full_reason or verdict.reason
            if reason:
                plan = replace(plan, mode=Mode.FULL, reason=reason, bytes_expected=disk.allocated)
            else:
                plan = replace(
                    plan,
                    mode=Mode.INCREMENTAL,
                    reason="",
                    parent=verdict.parent,
                    bytes_expected=verdict.expected,
                )
                proofs[disk.id] = verdict
            if not disk.size:
                raise BackupFailed(
                    f"The size of disk {disk.id} of {guest.name} ({disk.source}) cannot be found out.",
                    hint="Log in as a user who may read the image: root, or a member of libvirt-qemu.",
                    subject=guest.name,
                )
        plans.append(plan)
    return tuple(plans), proofs


def choose_method(
    gathered: Gathered,
    settings: LibvirtSettings,
    disks: Sequence[DiskPlan],
    expected: int,
    host: str,
) -> tuple[str, str]:
    """(method, reason): `offline`, `pull`, `push` or `snapshot`. Raises BackupFailed."""
    guest = gathered.guest
    if not guest.running:
        return "offline", "the guest is off"
    if settings.method == "offline":
        raise BackupFailed(
            f"{guest.name} on {host} is running, and this host is set to method = offline.",
            hint="Switch the guest off, or set method = auto for this host.",
            subject=guest.name,
        )
    selected = {disk.id for disk in disks if disk.mode is not Mode.SKIPPED}
    threaded = sorted(disk.id for disk in guest.disks if disk.iothread and disk.id in selected)
    deadly = threaded and (guest.qemu is None or guest.qemu < SAFE_QEMU)
    if deadly and settings.method in ("auto", "pull"):
        version = ".".join(map(str, guest.qemu)) if guest.qemu else "of unknown version"
        why = (
            f"disk {', '.join(threaded)} has an iothread, and QEMU {version} can crash when NBD is used on it"
        )
        if gathered.scratch_free >= settings.scratch_min_free + expected:
            return "push", why
        return "snapshot", f"{why}; too little space for a copy in {gathered.scratch}"
    if settings.method == "auto":
        return "pull", "the running guest is read through a backup job of libvirt"
    return settings.method, f"this host is set to method = {settings.method}"


def _check_space(plan: ExportPlan, settings: LibvirtSettings, host: str) -> tuple[str, ...]:
    """Raise OutOfSpace when it would not do; a warning when it may not."""
    facts: PlanFacts = plan.facts
    if plan.method == "offline":
        return ()
    if facts.scratch_free < 0:
        raise BackupFailed(
            f"The scratch folder {facts.scratch} on {host} cannot be looked at.",
            hint=f"Make it (mkdir -p {facts.scratch}) or set another `scratch` folder for {host}.",
            subject=plan.guest.name,
        )
    need = settings.scratch_min_free + (plan.bytes_expected if plan.method == "push" else 0)
    if facts.scratch_free < need:
        raise OutOfSpace(
            f"{facts.scratch} on {host} has {size(facts.scratch_free)} free; "
            f"backing up {plan.guest.name} needs {size(need)} there.",
            hint=f"Free space, or set another `scratch` folder (or a smaller reserve) for {host}.",
            subject=plan.guest.name,
        )
    if plan.method == "pull" and facts.scratch_free < need + plan.bytes_expected // 20:
        return (
            f"{facts.scratch} has only {size(facts.scratch_free)} free for what the guest overwrites "
            "during the backup; the backup is broken off before it runs full.",
        )
    return ()


def _warnings(guest: GuestFacts, options: ExportOptions) -> tuple[str, ...]:
    found = []
    if guest.state is GuestState.RUNNING and options.freeze and not guest.agent:
        found.append("The guest agent is not connected: this backup is crash-consistent.")
    if guest.paused_by_error:
        found.append("The guest is paused because of an I/O error; this backup holds it as it is.")
    if guest.tpm:
        found.append("The state of its TPM is not backed up; a key sealed in it cannot be restored.")
    return tuple(found)


def size(count: int) -> str:
    """Bytes for people, in binary units."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
