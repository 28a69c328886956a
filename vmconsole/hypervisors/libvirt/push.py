"""Exporting a running guest without letting an NBD client near its QEMU: a push-mode backup job.

QEMU itself writes what is to be read into new qcow2 files on the host; when it is done, these are
served by a qemu-nbd of ours. For QEMU before 9.0 with a disk in an iothread, where a disconnecting
NBD client can kill the guest. The job and its checkpoint are held by guard.sh as in pull.py.

The files of an increment hold the changed clusters and nothing else, and name the guest's *live*
image as their backing file, which is never opened. In them, a cluster that is allocated has
changed, also when it reads as zeros; one that is not allocated has not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vmconsole.errors import BackupFailed, OutOfSpace
from vmconsole.events import DiskProgress, step
from vmconsole.hypervisors.libvirt import jobxml, names
from vmconsole.hypervisors.libvirt.checkpoints import read_checkpoint
from vmconsole.hypervisors.libvirt.facts import CheckpointFacts, PlanFacts, point_facts
from vmconsole.hypervisors.libvirt.gather import free_bytes
from vmconsole.hypervisors.libvirt.hold import Hold, begin
from vmconsole.hypervisors.libvirt.members import collect_members
from vmconsole.hypervisors.libvirt.plan import size
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.hypervisors.served.disk import DEPTH, DiskFacet, ServedDisk
from vmconsole.hypervisors.served.qemunbd import Image, NbdServers, read_options, serve
from vmconsole.interfaces import Context, Cut, DiskPlan, ExportPlan, Feed
from vmconsole.model.guest import Tracking
from vmconsole.model.point import Mode

PROGRESS = "copy on the host"
"""Stands for the disk's name while QEMU copies all of them."""
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0
_FULL = 4 * 1024 * 1024
"""A file system with fewer free bytes than this is why a copy failed."""
_FIELD = re.compile(r"^(?P<key>[A-Z][A-Za-z ]*):\s*(?P<value>.*?)\s*$", re.MULTILINE)
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def open_push_export(
    virsh: Virsh, settings: LibvirtSettings, plan: ExportPlan, context: Context
) -> PushExport:
    """Cut, and wait until QEMU has copied. On any failure the host is left as it was.

    Raises GuestBusy, GuestStopped, OutOfSpace, BackupFailed, HostError, Cancelled.
    """
    facts: PlanFacts = plan.facts
    guest = facts.guest
    chosen = [disk for disk in plan.disks if disk.mode is not Mode.SKIPPED]
    tracked = [disk.id for disk in chosen if guest.disk(disk.id).tracking is Tracking.BITMAP]
    targets = [
        jobxml.JobDisk(
            disk.id,
            names.scratch_path(facts.scratch, guest.uuid, disk.id, context.run),
            _base(facts, disk),
        )
        for disk in chosen
    ]
    checkpoint = names.checkpoint_name(facts.repository, context.run) if tracked else ""
    hold = begin(
        virsh,
        settings,
        plan,
        context,
        checkpoint=checkpoint,
        mark=names.base_name(targets[0].file),
        files=tuple(target.file for target in targets),
    )
    try:
        hold.cut(jobxml.push_job(targets), jobxml.checkpoint(checkpoint, tracked))
        with step(context.events, context.run, guest.name, "copy"):
            _wait_for_copy(virsh, hold, plan, context)
        return _opened(hold, virsh, settings, plan, context, targets, checkpoint, tracked)
    except BaseException:
        hold.rollback()
        raise


def _base(facts: PlanFacts, disk: DiskPlan) -> str:
    """A disk that has grown is copied whole: what it grew by is not in its bitmap."""
    base = facts.bases.get(disk.id, "")
    return base if facts.old_sizes.get(disk.id, 0) == disk.size else ""


def _wait_for_copy(virsh: Virsh, hold: Hold, plan: ExportPlan, context: Context) -> None:
    guest = plan.facts.guest
    pause = _FIRST_WAIT
    while True:
        hold.check()
        job = job_info(virsh.run("domjobinfo", guest.uuid))
        if job.get("Job type", "None") == "None":
            break
        done, total = _bytes(job.get("File processed", "")), _bytes(job.get("File total", ""))
        context.events(DiskProgress(context.run, guest.name, PROGRESS, min(done, total), total))
        context.cancel.wait(pause)
        pause = min(pause * 1.5, _LONGEST_WAIT)
    ended = job_info(virsh.run("domjobinfo", guest.uuid, "--completed", "--keep-completed"))
    if ended.get("Job type") != "Completed" or ended.get("Error message"):
        hold.check()
        raise _not_copied(virsh, plan, ended)


def _not_copied(virsh: Virsh, plan: ExportPlan, ended: Mapping[str, str]) -> BackupFailed:
    """libvirt 9.0 calls a copy that met a full file system just `Failed`, and removes what was copied."""
    name, host, scratch = plan.guest.name, virsh.machine.name, plan.facts.scratch
    looked = virsh.machine.run(["stat", "-f", "-c", "%a %S", "--", scratch], check=False)
    free = free_bytes(looked.text)
    if 0 <= free < max(_FULL, plan.bytes_expected):
        return OutOfSpace(
            f"What {name} had changed did not fit into {scratch} on {host}: {size(free)} are free there.",
            hint="Free space there, or set another `scratch` folder for this host.",
            subject=name,
        )
    why = ended.get("Error message") or f"the job is {ended.get('Job type', 'gone').lower()}"
    return BackupFailed(
        f"QEMU on {host} could not copy what {name} had changed: {why}.",
        hint=f"Look at the host's logs: journalctl -u libvirtd; /var/log/libvirt/qemu/{name}.log",
        subject=name,
    )


def job_info(text: str) -> dict[str, str]:
    """`virsh domjobinfo` as a mapping."""
    return {match["key"]: match["value"] for match in _FIELD.finditer(text)}


def _bytes(text: str) -> int:
    """`1.500 GiB` in bytes; 0 when it is no such thing."""
    number, _, unit = text.partition(" ")
    try:
        return int(float(number) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        return 0


def _opened(
    hold: Hold,
    virsh: Virsh,
    settings: LibvirtSettings,
    plan: ExportPlan,
    context: Context,
    targets: Sequence[jobxml.JobDisk],
    checkpoint: str,
    tracked: Sequence[str],
) -> PushExport:
    facts: PlanFacts = plan.facts
    made: tuple[CheckpointFacts, ...] = ()
    if checkpoint:
        made = (read_checkpoint(virsh, facts.guest.uuid, checkpoint),)
    members, warnings = collect_members(virsh, facts.guest, made[0].xml if made else "")
    plans = {disk.id: disk for disk in plan.disks}
    servers = serve(
        virsh.machine,
        [
            Image(
                target.id,
                read_options(target.file, "qcow2", alone=True),
                allocation_depth=bool(target.base),
            )
            for target in targets
        ],
    )
    disks = [
        ServedDisk(
            DiskFacet(
                plan=plans[target.id],
                bitmap=checkpoint if target.id in tracked else "",
                process=facts.guest.process,
                changes=DEPTH if target.base else "",
                old_size=facts.old_sizes.get(target.id, 0),
            ),
            servers,
            settings.nbd_connections,
            context,
        )
        for target in targets
    ]
    cut = replace(
        hold.cut_made,
        warnings=(*hold.cut_made.warnings, *warnings),
        facts=point_facts("push", facts.guest, made),
    )
    return PushExport(cut=cut, disks=disks, files=members, hold=hold, servers=servers)


class PushExport:
    """See Export. The copy is complete and independent: what the guest does now no longer matters."""

    feed: Feed | None = None

    def __init__(
        self,
        *,
        cut: Cut,
        disks: Sequence[ServedDisk],
        files: Mapping[str, bytes],
        hold: Hold,
        servers: NbdServers,
    ) -> None:
        self.cut = cut
        self.disks = disks
        self.files = files
        self._hold = hold
        self._servers = servers

    def check(self) -> None:
        """Nothing can go wrong with the cut any more; a broken connection shows when reading."""

    def release(self) -> None:
        self._close()
        self._hold.release()

    def advance(self) -> None:
        self._hold.advance()

    def rollback(self) -> None:
        self._close()
        self._hold.rollback()

    def _close(self) -> None:
        for disk in self.disks:
            disk.close()
        self._servers.close()
