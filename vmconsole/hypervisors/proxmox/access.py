"""Exporting a running guest through Proxmox's own pair of commands, backup-access-setup and -teardown.

Proxmox keeps one bitmap per target in QEMU, which is ours alone. Only what it calls dirty can be read
when it is used. Order: journal, guard with the guest's lock, fleecing images, freeze, cut, thaw, read,
archive, and then tear down: with success, the bitmap begins anew at the cut; without, it goes on.
"""

from __future__ import annotations

from dataclasses import replace

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.proxmox import names, running
from vmconsole.hypervisors.proxmox.facts import PlanFacts
from vmconsole.hypervisors.proxmox.graph import Access, Plain, Shown
from vmconsole.hypervisors.proxmox.hold import Hold
from vmconsole.hypervisors.proxmox.loose import word
from vmconsole.hypervisors.proxmox.nbd import Facet, NbdExport
from vmconsole.hypervisors.proxmox.nodes import Nodes
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.interfaces import Context, Cut, DiskPlan, ExportPlan
from vmconsole.model.point import Mode


def open_access_export(
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
    access = Access(facts.target, bitmap, guest.blockdev, parts.disks, loose)
    document = running.document_of(machine, settings, plan, context, parts, access.undo(), access.commit())

    def work(hold: Hold) -> tuple[Cut, list[Shown]]:
        disks, plain = running.locate_all(hold, plan, parts)
        ready = replace(access, disks=disks, plain=plain)
        hold.do(ready.prepare())
        cut, results = hold.cut(ready.cut())
        answers = {word(item.get("device")): item for item in running.results_list(results, "setup")}
        shown = []
        for disk in disks:
            answer = answers.get(disk.device, {})
            node = word(answer.get("node-name"))
            if not node or word(answer.get("bitmap-name")) != facts.target:
                raise ProtocolError(f"QEMU does not say how {disk.device} can be read.")
            # A disk that is read in full is all dirty: its bitmap need not be looked at.
            given = (word(answer.get("bitmap-node-name")), facts.target) if disk.base else ("", "")
            shown.append(Shown(disk.key, node, *given))
        return cut, [*shown, *(Shown(disk.key, disk.node) for disk in plain)]

    def facet(disk: DiskPlan) -> Facet:
        incremental = disk.mode is Mode.INCREMENTAL
        return Facet(
            plan=disk,
            bitmap=bitmap if disk.id in tracked else "",
            process=guest.process,
            changes=facts.target if incremental else "",
            old_size=facts.old_sizes.get(disk.id, 0),
            whole=False,
        )

    return running.export(
        machine, settings, plan, context, document, work, facet, release=[{"unserve": names.PREFIX}]
    )
