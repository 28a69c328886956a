"""Is there space for what guests overwrite while they are read? Pure."""

from __future__ import annotations

from collections.abc import Sequence

from vmconsole.errors import BackupFailed, OutOfSpace
from vmconsole.hypervisors.proxmox.facts import FleecingPlace, PlanFacts, PveDisk
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.interfaces import ExportPlan


def check_space(
    plan: ExportPlan, selected: Sequence[PveDisk], settings: ProxmoxSettings, host: str
) -> tuple[str, ...]:
    """Raise OutOfSpace when the fleecing place would not do; a warning when it may not."""
    facts: PlanFacts = plan.facts
    place = facts.fleecing
    if place is None:
        raise BackupFailed(
            f"No storage on node {plan.guest.node} of {host} can take what {plan.guest.name} overwrites "
            "during its backup.",
            hint=f'Set fleecing = "STORAGE" or "/FOLDER" for {host}.',
            subject=plan.guest.name,
        )
    if place.free < 0:
        raise _unavailable(plan, place, host)
    whole = sum(disk.size for disk in selected)
    need = settings.fleecing_min_free + (whole if place.thick or facts.reserve else 0)
    if place.free < need:
        raise OutOfSpace(
            f"{place.name} on node {facts.guest.node} of {host} has {size(place.free)} free; "
            f"backing up {plan.guest.name} needs {size(need)} there.",
            hint=f"Free space, or set another `fleecing` (or a smaller reserve) for {host}.",
            subject=plan.guest.name,
        )
    if not (place.thick or facts.reserve) and place.free < need + plan.bytes_expected // 20:
        return (
            f"{place.name} has only {size(place.free)} free for what the guest overwrites during the "
            "backup; the backup is broken off before it runs full.",
        )
    return ()


def _unavailable(plan: ExportPlan, place: FleecingPlace, host: str) -> BackupFailed:
    node = plan.guest.node
    if place.kind == "folder":
        return BackupFailed(
            f"The fleecing folder {place.name} on node {node} of {host} cannot be looked at.",
            hint=f"Make it on that node (mkdir -p {place.name}), or set another `fleecing` for {host}.",
            subject=plan.guest.name,
        )
    return BackupFailed(
        f"The fleecing storage {place.name} is not available on node {node} of {host}.",
        hint=f"Look at it on that node (pvesm status), or set another `fleecing` for {host}.",
        subject=plan.guest.name,
    )


def size(count: int) -> str:
    """Bytes for people, in binary units."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
