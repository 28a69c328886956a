"""The export of running machines that only vzdump can read safely, and of containers.

Everything is read every time, in one stream. vzdump does what it always does: it takes the node's
vzdump lock and the guest's, freezes, snapshots, runs hook scripts, and cleans up by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from vmconsole.errors import BackupFailed, ProtocolError
from vmconsole.events import Warned, step
from vmconsole.hypervisors.proxmox.facts import PlanFacts, PveGuest, point_facts
from vmconsole.hypervisors.proxmox.guestconf import archive_device, encode
from vmconsole.hypervisors.proxmox.nodes import Nodes
from vmconsole.hypervisors.proxmox.proof import VZDUMP
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.proxmox.vzdumpfeed import PIECE, TarFeed, VmFeed
from vmconsole.hypervisors.proxmox.vzdumpjob import Mark, VzdumpJob, end
from vmconsole.hypervisors.vma.layout import Device
from vmconsole.hypervisors.vma.reader import Reader
from vmconsole.interfaces import Context, Cut, DiskPlan, ExportPlan, Feed
from vmconsole.model.extent import Extent
from vmconsole.model.guest import GuestKind
from vmconsole.model.point import Consistency, Mode
from vmconsole.model.run import JournalEntry

_SLACK = 64 * 1024 * 1024
"""Bytes by which a disk may be larger than planned: sizes in configurations are rounded."""
_FREEZE = "issuing guest-agent 'fs-freeze' command"
_THAW = "issuing guest-agent 'fs-thaw' command"
_SUSPEND = "trying 'suspend' mode instead"


def open_vzdump_export(
    nodes: Nodes,
    settings: ProxmoxSettings,  # noqa: ARG001 - every method's export is opened alike
    plan: ExportPlan,
    context: Context,
) -> VzdumpExport:
    """Start vzdump and wait until its stream begins: that is the cut.

    Raises BackupFailed, HostError, Cancelled; vzdump has been ended then.
    """
    facts: PlanFacts = plan.facts
    with step(context.events, context.run, facts.guest.name, "cut"):
        job = VzdumpJob(nodes.machine(facts.guest.node), nodes.host, facts.guest, context)
        try:
            if facts.guest.kind is GuestKind.CONTAINER:
                return _open_container(job, plan, context)
            return _open_machine(job, plan, context)
        except BaseException:
            job.abandon()
            raise


def _open_machine(job: VzdumpJob, plan: ExportPlan, context: Context) -> VzdumpExport:
    facts: PlanFacts = plan.facts
    try:
        reader = Reader(job.read)
    except ProtocolError as error:
        job.explain(error)
    moment, header = context.clock.now(), reader.header
    chosen = _match(job, plan, [device for device in header.devices if not device.is_vmstate])
    configs = {
        "config/qemu-server.conf": header.configs.get("qemu-server.conf", encode(facts.guest.conf)),
        "config/firewall.fw": header.configs.get("qemu-server.fw", encode(facts.guest.firewall)),
    }
    return VzdumpExport(
        job,
        plan,
        context,
        disks=[VzdumpDisk(disk, facts.guest.process) for disk in chosen.values()],
        feed=VmFeed(job, reader, {number: disk.id for number, disk in chosen.items()}),
        files=configs,
        moment=moment,
    )


def _open_container(job: VzdumpJob, plan: ExportPlan, context: Context) -> VzdumpExport:
    first = job.read(PIECE)
    if not first:
        job.explain(ProtocolError("vzdump wrote nothing."))
    moment = context.clock.now()
    tar = next(disk for disk in plan.disks if disk.mode is not Mode.SKIPPED)
    feed = TarFeed(job, tar.id, first)
    return VzdumpExport(job, plan, context, disks=[VzdumpDisk(tar)], feed=feed, files={}, moment=moment)


def _match(job: VzdumpJob, plan: ExportPlan, devices: Sequence[Device]) -> dict[int, DiskPlan]:
    """Which device of the stream is which disk, with the size it really has."""
    facts: PlanFacts = plan.facts
    by_name = {device.name: device for device in devices}
    known = {archive_device(disk.key) for disk in facts.guest.disks}
    strange = sorted(by_name.keys() - known)
    chosen = {}
    for disk in plan.disks:
        if disk.mode is Mode.SKIPPED:
            continue
        device = by_name.get(archive_device(disk.id))
        if device is None or strange or (disk.size and device.size > disk.size + _SLACK):
            what = (
                f"{strange[0]} is new"
                if strange
                else f"{disk.id} is {'gone' if device is None else 'larger'}"
            )
            raise BackupFailed(
                f"The disks of {job.who} were changed while its backup began: {what}.",
                hint="Run the backup again.",
                subject=facts.guest.name,
            )
        chosen[device.dev_id] = replace(disk, size=device.size)
    return chosen


@dataclass(frozen=True, slots=True)
class VzdumpDisk:
    """A DiskExport that comes through the feed."""

    plan: DiskPlan
    process: str = ""
    bitmap: str = ""
    bytes_dirty: int = 0

    def extents(self) -> Sequence[Extent]:
        return ()

    def read(self, extents: Iterable[Extent]) -> Iterator[tuple[int, bytes]]:
        return iter(())


class VzdumpExport:
    """See Export."""

    def __init__(
        self,
        job: VzdumpJob,
        plan: ExportPlan,
        context: Context,
        *,
        disks: Sequence[VzdumpDisk],
        feed: VmFeed | TarFeed,
        files: Mapping[str, bytes],
        moment: datetime,
    ) -> None:
        self._job = job
        self._plan = plan
        self._context = context
        self._disks = disks
        self._feed = feed
        self._files = files
        self._moment = moment
        self._said = self._warnings()

    @property
    def cut(self) -> Cut:
        """How it went is known from vzdump's log, which may be a little behind the stream."""
        return Cut(
            time=self._moment,
            consistency=self._consistency(),
            freeze_ms=None,
            warnings=self._warnings(),
            facts=point_facts(VZDUMP, self._plan.facts),
        )

    @property
    def disks(self) -> Sequence[VzdumpDisk]:
        return self._disks

    @property
    def feed(self) -> Feed | None:
        return self._feed

    @property
    def files(self) -> Mapping[str, bytes]:
        """Empty ones are left out. A container's come with the stream."""
        guest = self._guest
        files = self._files
        if isinstance(self._feed, TarFeed):
            files = {
                "config/pct.conf": self._feed.files.get("pct.conf", encode(guest.conf)),
                "config/firewall.fw": self._feed.files.get("pct.fw", encode(guest.firewall)),
            }
        return {path: content for path, content in files.items() if content}

    def check(self) -> None:
        self._job.check()

    def release(self) -> None:
        """Raises BackupFailed when the stream was not read to its end, or vzdump did not succeed."""
        self._job.finish()
        self._job.settle()
        for warning in self._warnings():
            if warning not in self._said:
                self._context.events(Warned(self._context.run, self._guest.name, warning))

    def advance(self) -> None:
        """Nothing: there is no bitmap."""

    def rollback(self) -> None:
        self._job.abandon()

    @property
    def _guest(self) -> PveGuest:
        facts: PlanFacts = self._plan.facts
        return facts.guest

    def _consistency(self) -> Consistency:
        if not self._guest.running:
            return Consistency.OFFLINE
        return Consistency.APPLICATION if self._frozen() else Consistency.CRASH

    def _frozen(self) -> bool:
        """The agent was asked to freeze, and vzdump did not complain before it asked to thaw."""
        log = self._job.log()
        begun = next((number for number, line in enumerate(log) if _FREEZE in line), -1)
        if begun < 0 or self._guest.kind is GuestKind.CONTAINER:
            return False
        for line in log[begun + 1 :]:
            if _THAW in line:
                break
            if line.startswith("ERROR:"):
                return False
        return True

    def _warnings(self) -> tuple[str, ...]:
        found = []
        log = "\n".join(self._job.log())
        if _FREEZE in log and not self._frozen():
            found.append("Freezing through the guest agent failed: this backup is crash-consistent.")
        if _SUSPEND in log:
            found.append(
                "A volume of it cannot be snapshotted: vzdump copied it to a temporary folder on the node and "
                "suspended the container for a moment."
            )
        return tuple(found)


def clean_vzdump(
    nodes: Nodes,
    settings: ProxmoxSettings,  # noqa: ARG001 - every journal entry is cleaned alike
    entry: JournalEntry,
) -> str:
    """Undo an entry of vzdumpjob.KIND. Returns one sentence. Raises HostError when something is left."""
    mark = Mark.read(entry.payload)
    return end(nodes.machine(mark.node), mark)
