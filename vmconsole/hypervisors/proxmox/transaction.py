"""Exporting a running guest with QEMU's own commands, where it lacks Proxmox's.

A bitmap of ours begins at the cut, and the one of the last point stops there and is read. Order:
journal, guard with the guest's lock, fleecing images, freeze, cut, thaw, read, take the graph down,
archive, and then drop the old bitmap. Without the archive, the old bitmap gets back what the new one
recorded, so that the next backup covers everything since the last point.
"""

from __future__ import annotations

from dataclasses import replace

from vmconsole.hypervisors.proxmox import fleecing, names, running
from vmconsole.hypervisors.proxmox.facts import PlanFacts
from vmconsole.hypervisors.proxmox.graph import Plain, Shown
from vmconsole.hypervisors.proxmox.hold import Hold
from vmconsole.hypervisors.proxmox.nbd import Facet, NbdExport
from vmconsole.hypervisors.proxmox.nodes import Nodes
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.proxmox.transaction_graph import Transaction
from vmconsole.interfaces import Context, Cut, DiskPlan, ExportPlan
from vmconsole.model.point import Mode


def open_transaction_export(
    nodes: Nodes, settings: ProxmoxSettings, plan: ExportPlan, context: Context
) -> NbdExport:
    """On any failure the guest and its node are left as they were.

    Raises GuestBusy, GuestStopped, OutOfSpace, BackupFailed, HostError, Cancelled.
    """
    facts: PlanFacts = plan.facts
    guest = facts.guest
    machine = nodes.machine(guest.node)
    parts = running.parts_of(plan, context.run)
    bitmap = names.bitmap(facts.repository, context.run)
    tracked = {disk.key for disk in parts.disks}
    loose = tuple(Plain(disk.key, "/", "raw") for disk in parts.loose)
    transaction = Transaction(bitmap, facts.reserve, parts.disks, loose)
    document = running.document_of(
        machine, settings, plan, context, parts, transaction.undo(), transaction.commit()
    )

    def work(hold: Hold) -> tuple[Cut, list[Shown]]:
        disks, plain = running.locate_all(hold, plan, parts)
        ready = replace(transaction, disks=disks, plain=plain)
        hold.do(ready.prepare())
        cut, _ = hold.cut(ready.cut())
        hold.do(ready.snapshots())
        return cut, [*ready.shown(), *(Shown(disk.key, disk.node) for disk in plain)]

    def facet(disk: DiskPlan) -> Facet:
        incremental = disk.mode is Mode.INCREMENTAL
        return Facet(
            plan=disk,
            bitmap=bitmap if disk.id in tracked else "",
            process=guest.process,
            changes=facts.bases[disk.id] if incremental else "",
            old_size=facts.old_sizes.get(disk.id, 0),
        )

    return running.export(
        machine,
        settings,
        plan,
        context,
        document,
        work,
        facet,
        release=[*transaction.release(), *fleecing.free(parts.images)],
    )
