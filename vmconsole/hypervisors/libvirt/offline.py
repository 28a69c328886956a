"""Exporting a guest that is off, by reading its images with qemu-nbd.

QEMU's image locks are not taken: a lock of ours would make the user's `virsh start` fail and, worse,
leave the bitmaps of the disks it had opened before marked broken. So the guest may start while we
read. That is noticed, at the latest at the end, and nothing that was read is then used: the state
of the guest and the identity, size and times of every image must be what they were.

No checkpoint can be made while a guest is off. The base checkpoint stays and goes on recording, so
that the next increment covers everything since *its* cut, which is more than needed and never less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vmconsole.errors import BackupFailed, GuestBusy, HostError
from vmconsole.events import step
from vmconsole.hypervisors.libvirt import names
from vmconsole.hypervisors.libvirt.facts import CheckpointFacts, DiskFacts, GuestFacts, PlanFacts, point_facts
from vmconsole.hypervisors.libvirt.members import collect_members
from vmconsole.hypervisors.libvirt.readable import recorded_below, refuse_unreadable
from vmconsole.hypervisors.libvirt.sections import MISSING, Section, collect
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.hypervisors.served.disk import DiskFacet, ServedDisk, bitmap_context
from vmconsole.hypervisors.served.qemunbd import Image, NbdServers, read_options, serve
from vmconsole.interfaces import Context, Cut, ExportPlan, Feed
from vmconsole.model.point import Consistency, Mode

OFF = "shut off"

# A block device's node keeps its times whoever writes to it; the kernel's counters do not.
_LOOK = r"""
uri=$1 uuid=$2; shift 2
part state virsh -c "$uri" domstate "$uuid"
n=0
for path in "$@"; do
    part "$n" stat -L -c '%d %i %s %y %z %t %T' -- "$path"
    if [ -b "$path" ]; then
        numbers=$(stat -L -c '%t %T' -- "$path")
        part "$n block" awk '{print $5, $7}' \
            "/sys/dev/block/$((0x${numbers% *})):$((0x${numbers#* }))/stat"
    fi
    n=$((n + 1))
done
part end true
"""


class OfflineExport:
    """See Export."""

    feed: Feed | None = None

    def __init__(
        self,
        watch: Watch,
        servers: NbdServers,
        disks: Sequence[ServedDisk],
        cut: Cut,
        files: Mapping[str, bytes],
    ) -> None:
        self._watch = watch
        self._servers = servers
        self.disks = disks
        self.cut = cut
        self.files = files

    def check(self) -> None:
        """Raises GuestBusy when the guest was started, or an image changed."""
        self._watch.check()

    def release(self) -> None:
        self._watch.check()
        self._close()

    def advance(self) -> None:
        """Nothing: no checkpoint was made, and the one that records has to stay."""

    def rollback(self) -> None:
        self._close()

    def _close(self) -> None:
        for disk in self.disks:
            disk.close()
        self._servers.close()


class Watch:
    """Notices that a guest was started, or an image changed, since it was made."""

    def __init__(self, virsh: Virsh, guest: GuestFacts, paths: Sequence[str]) -> None:
        self._virsh = virsh
        self._guest = guest
        self._paths = tuple(paths)
        self._before = self._look()

    def is_block(self, path: str) -> bool:
        return self._before[path].count("\n") > 0

    def check(self) -> None:
        if self._look() != self._before:
            raise self._started()

    def _look(self) -> dict[str, str]:
        machine = self._virsh.machine
        answers = collect(machine, _LOOK, [self._virsh.uri, self._guest.uuid, *self._paths])
        state = answers.get("state", MISSING)
        if "end" not in answers or not state.ok:
            raise HostError(
                f"The state of {self._guest.name} on {machine.name} cannot be found out: {state.errors}",
                subject=machine.name,
            )
        if state.text.strip() != OFF:
            raise self._started()
        found = {}
        for n, path in enumerate(self._paths):
            seen = answers.get(str(n), MISSING)
            if not seen.ok:
                raise BackupFailed(
                    f"The image {path} of {self._guest.name} cannot be looked at: {seen.errors}",
                    hint="Is its storage mounted, and may the login user go there?",
                    subject=self._guest.name,
                )
            found[path] = seen.text.strip() + self._writes(path, answers.get(f"{n} block"))
        return found

    def _writes(self, path: str, block: Section | None) -> str:
        """A line of the kernel's counters for a block device."""
        if block is None:
            return ""
        if not block.ok or len(block.text.split()) != 2:
            raise BackupFailed(
                f"Whether somebody writes to {path} of {self._guest.name} cannot be seen: {block.errors}",
                hint="Start the guest and back it up running.",
                subject=self._guest.name,
            )
        return f"\n{block.text.strip()}"

    def _started(self) -> GuestBusy:
        return GuestBusy(
            f"{self._guest.name} was started while it was read.",
            hint="Nothing of it was stored; the next run backs it up running.",
            subject=self._guest.name,
        )


def open_offline_export(
    virsh: Virsh, settings: LibvirtSettings, plan: ExportPlan, context: Context
) -> OfflineExport:
    """Serve the images and begin to watch. Nothing is acquired that outlives our connection.

    Raises GuestBusy when the guest is not off any more, BackupFailed, HostError.
    """
    facts: PlanFacts = plan.facts
    guest = facts.guest
    selected = [guest.disk(disk.id) for disk in plan.disks if disk.mode is not Mode.SKIPPED]
    refuse_unreadable(guest, selected, "while it is off")
    with step(context.events, context.run, guest.name, "cut"):
        watch = Watch(virsh, guest, [path for disk in selected for path in (disk.source, *disk.chain)])
        moment = context.clock.now()
        servers = serve(
            virsh.machine,
            [
                Image(
                    disk.id,
                    read_options(disk.source, disk.format, block=watch.is_block(disk.source)),
                    bitmap=facts.bases.get(disk.id, ""),
                )
                for disk in selected
            ],
        )
    try:
        spread = {
            disk.id for disk in selected if recorded_below(virsh.machine, disk, facts.bases.get(disk.id, ""))
        }
        recording = {disk.id: _recording(facts, disk) for disk in selected}
        kept = tuple({item.name: item for item in recording.values() if item is not None}.values())
        members, warnings = collect_members(virsh, guest, kept[0].xml if kept else "")
        watch.check()
    except BaseException:
        servers.close()
        raise
    disks = []
    for disk_plan in plan.disks:
        if disk_plan.mode is Mode.SKIPPED:
            continue
        base = facts.bases.get(disk_plan.id, "")
        goes_on = recording[disk_plan.id]
        facet = DiskFacet(
            plan=disk_plan,
            bitmap=goes_on.name if goes_on is not None else "",
            changes=bitmap_context(base) if base and disk_plan.id not in spread else "",
            old_size=facts.old_sizes.get(disk_plan.id, 0),
        )
        disks.append(ServedDisk(facet, servers, settings.nbd_connections, context))
    cut = Cut(
        time=moment,
        consistency=Consistency.OFFLINE,
        freeze_ms=None,
        warnings=tuple(warnings),
        facts=point_facts("offline", guest, kept),
    )
    return OfflineExport(watch, servers, disks, cut, members)


def _recording(facts: PlanFacts, disk: DiskFacts) -> CheckpointFacts | None:
    """The checkpoint that goes on recording this disk: its base, or after a full read a sound one of ours."""
    base = facts.bases.get(disk.id)
    if base:
        return facts.guest.checkpoint(base)
    sound = {item.name for item in disk.bitmaps if not item.in_use and not item.inconsistent}
    ours = [
        item
        for item in facts.guest.checkpoints
        if names.belongs_to(item.name, facts.repository) and disk.id in item.disks and item.name in sound
    ]
    return max(ours, key=lambda item: item.created, default=None)
