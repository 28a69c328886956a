"""Exporting a running guest by an external snapshot: the images stand still below overlays.

For guests that no NBD client may touch (see push.py) where there is no room for a copy. All disks
get an overlay in one step; the images below are read with qemu-nbd, the bitmap of the parent among
them; then the overlays are merged back (overlay.py), and with them what their bitmaps recorded.

The new checkpoint is made just before the cut: libvirt cannot make one inside the images once they
are below. What the guest writes between the two is recorded, and in this backup: the next increment
reads it once more. Nothing can be missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from xml.etree.ElementTree import Element, SubElement, tostring

from vmconsole.errors import BackupFailed, HostError
from vmconsole.events import Waiting, Warned
from vmconsole.hypervisors.libvirt import jobxml, names, overlay
from vmconsole.hypervisors.libvirt.checkpoints import read_checkpoint
from vmconsole.hypervisors.libvirt.facts import CheckpointFacts, DiskFacts, PlanFacts, point_facts
from vmconsole.hypervisors.libvirt.hold import Hold, begin
from vmconsole.hypervisors.libvirt.members import collect_members
from vmconsole.hypervisors.libvirt.overlay import Overlay
from vmconsole.hypervisors.libvirt.readable import recorded_below, refuse_unreadable
from vmconsole.hypervisors.libvirt.sections import MISSING, collect
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.hypervisors.served.disk import DiskFacet, ServedDisk, bitmap_context
from vmconsole.hypervisors.served.qemunbd import Image, NbdServers, read_options, serve
from vmconsole.interfaces import Context, Cut, ExportPlan, Feed
from vmconsole.model.guest import Tracking
from vmconsole.model.point import Mode

_VOLATILE = ("tmpfs", "ramfs")

_LOOK = r"""
folder=$1; shift
part kind stat -f -c %T -- "$folder"
n=0
for path in "$@"; do
    part "$n" test -b "$path"
    n=$((n + 1))
done
part end true
"""


def open_snapshot_export(
    virsh: Virsh, settings: LibvirtSettings, plan: ExportPlan, context: Context
) -> SnapshotExport:
    """Put overlays on all disks at one instant, and serve the images below.

    Raises GuestBusy, GuestStopped, OutOfSpace, BackupFailed, HostError, Cancelled; the overlays are
    merged back then.
    """
    facts: PlanFacts = plan.facts
    guest = facts.guest
    chosen = [guest.disk(disk.id) for disk in plan.disks if disk.mode is not Mode.SKIPPED]
    refuse_unreadable(guest, chosen, "by its snapshot")
    tracked = [disk.id for disk in chosen if disk.tracking is Tracking.BITMAP]
    folder, blocks = _look(virsh, facts, chosen)
    checkpoint = names.checkpoint_name(facts.repository, context.run) if tracked else ""
    overlays = tuple(
        Overlay(
            disk=disk.id,
            file=names.overlay_path(folder, guest.uuid, disk.id, context.run),
            base=disk.source,
            format=disk.format,
            kind=disk.kind,
            source=overlay.source_element(guest.inactive_xml, disk.id),
        )
        for disk in chosen
    )
    hold = begin(
        virsh,
        settings,
        # The guard watches the folder in which the overlays grow.
        replace(plan, facts=replace(facts, scratch=folder)),
        context,
        checkpoint=checkpoint,
        mark=names.base_name(overlays[0].file),
        files=(),
        undo_more=overlay.undo_on_host(virsh, guest.uuid, overlays),
        remember=overlay.payload(overlays),
    )
    made = _Merging(virsh, plan, context, hold, overlays)
    try:
        if checkpoint:
            document = jobxml.checkpoint(checkpoint, tracked).encode()
            virsh.run("checkpoint-create", guest.uuid, "/dev/stdin", stdin=document)
        hold.cut(_snapshot(names.plain(context.run), guest.disks, overlays), "")
        return _opened(made, virsh, settings, plan, context, blocks, checkpoint, tracked)
    except BaseException:
        made.rollback()
        raise


def _look(virsh: Virsh, facts: PlanFacts, disks: Sequence[DiskFacts]) -> tuple[str, set[str]]:
    """(folder for the overlays, which of the images are block devices).

    An overlay must survive whatever the image survives: in a folder in memory a loss of power would
    take the guest's last writes with it.
    """
    paths = [disk.source for disk in disks]
    folder = facts.scratch
    answers = collect(virsh.machine, _LOOK, [folder, *paths])
    if "end" not in answers or not answers.get("kind", MISSING).ok:
        raise BackupFailed(
            f"The folder {folder} on {virsh.machine.name} cannot be looked at.",
            hint="Set another `scratch` folder for this host.",
            subject=facts.guest.name,
        )
    blocks = {path for n, path in enumerate(paths) if answers.get(str(n), MISSING).ok}
    if answers["kind"].text.strip() in _VOLATILE:
        beside = next((path.rpartition("/")[0] for path in paths if path not in blocks), "")
        if not beside:
            raise BackupFailed(
                f"{folder} on {virsh.machine.name} is in memory: a loss of power would cost the guest data.",
                hint="Set a `scratch` folder on a disk for this host.",
                subject=facts.guest.name,
            )
        folder = beside
    return folder, blocks


def _snapshot(name: str, all_disks: Sequence[DiskFacts], overlays: Sequence[Overlay]) -> str:
    """https://libvirt.org/formatsnapshot.html; disks that are not listed would get a snapshot too."""
    root = Element("domainsnapshot")
    SubElement(root, "name").text = f"{names.PREFIX}{name}"
    disks = SubElement(root, "disks")
    files = {item.disk: item.file for item in overlays}
    for disk in all_disks:
        if disk.id in files:
            element = SubElement(disks, "disk", name=disk.id, snapshot="external", type="file")
            SubElement(element, "driver", type="qcow2")
            SubElement(element, "source", file=files[disk.id])
        else:
            SubElement(disks, "disk", name=disk.id, snapshot="no")
    return tostring(root, encoding="unicode").replace("\n", " ")


def _opened(
    made: _Merging,
    virsh: Virsh,
    settings: LibvirtSettings,
    plan: ExportPlan,
    context: Context,
    blocks: set[str],
    checkpoint: str,
    tracked: Sequence[str],
) -> SnapshotExport:
    facts: PlanFacts = plan.facts
    guest = facts.guest
    found: tuple[CheckpointFacts, ...] = ()
    if checkpoint:
        found = (read_checkpoint(virsh, guest.uuid, checkpoint),)
    members, warnings = collect_members(virsh, guest, found[0].xml if found else "")
    below = {item.disk: item for item in made.overlays}
    bases = {
        disk: base
        for disk, base in facts.bases.items()
        if not recorded_below(virsh.machine, guest.disk(disk), base)
    }
    servers = serve(
        virsh.machine,
        [
            Image(
                item.disk,
                read_options(item.base, item.format, block=item.base in blocks),
                bitmap=bases.get(item.disk, ""),
            )
            for item in made.overlays
        ],
    )
    made.servers = servers
    disks = [
        ServedDisk(
            DiskFacet(
                plan=disk,
                bitmap=checkpoint if disk.id in tracked else "",
                process=guest.process,
                changes=bitmap_context(bases[disk.id]) if disk.id in bases else "",
                old_size=facts.old_sizes.get(disk.id, 0),
            ),
            servers,
            settings.nbd_connections,
            context,
        )
        for disk in plan.disks
        if disk.id in below
    ]
    cut = replace(
        made.hold.cut_made,
        warnings=(*made.hold.cut_made.warnings, *warnings),
        facts=point_facts("snapshot", guest, found),
    )
    return SnapshotExport(cut=cut, disks=disks, files=members, made=made)


class _Merging:
    """The overlays of one export, from the cut to their merging."""

    def __init__(
        self, virsh: Virsh, plan: ExportPlan, context: Context, hold: Hold, overlays: Sequence[Overlay]
    ) -> None:
        self._virsh = virsh
        self._guest = plan.facts.guest
        self._context = context
        self._merged = False
        self.hold = hold
        self.overlays = overlays
        self.servers: NbdServers | None = None

    def merge(self) -> None:
        """Raises HostError when the guest is left on an overlay."""
        if self._merged:
            return
        if self.servers is not None:
            self.servers.close()
        self._context.events(
            Waiting(self._context.run, self._guest.name, "what it wrote during the backup is merged back")
        )
        note = overlay.merge(self._virsh, self._guest.uuid, self._guest.name, self.overlays)
        self._merged = True
        if note:
            self._context.events(Warned(self._context.run, self._guest.name, note))

    def rollback(self) -> None:
        """What cannot be merged now is merged by the guard, or stays in the journal."""
        with suppress(HostError):
            self.merge()
        self.hold.rollback()


class SnapshotExport:
    """See Export."""

    feed: Feed | None = None

    def __init__(
        self, *, cut: Cut, disks: Sequence[ServedDisk], files: Mapping[str, bytes], made: _Merging
    ) -> None:
        self.cut = cut
        self.disks = disks
        self.files = files
        self._made = made

    def check(self) -> None:
        """Raises OutOfSpace when the overlays fill their folder."""
        self._made.hold.check()

    def release(self) -> None:
        """Merge the overlays back. Raises HostError when the guest is left on one."""
        self._made.hold.check()
        self._close()
        self._made.merge()
        self._made.hold.release()

    def advance(self) -> None:
        self._made.hold.advance()

    def rollback(self) -> None:
        self._close()
        self._made.rollback()

    def _close(self) -> None:
        for disk in self.disks:
            disk.close()
