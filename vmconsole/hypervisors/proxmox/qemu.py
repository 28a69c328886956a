"""What a running QEMU says about itself and its disks: one short QMP session that changes nothing.

Proxmox has two layouts. With `-drive`, a disk is a block backend `drive-scsi0` and its node has a
name QEMU made up. With `-blockdev` (machine version 10.0 and later), `drive-scsi0` is a throttle
node, and the disk's own node is below it: that is where backups work, so that they do not use up the
guest's I/O limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.proxmox import names
from vmconsole.hypervisors.proxmox.facts import BlockBitmap
from vmconsole.hypervisors.proxmox.guests import STATES
from vmconsole.hypervisors.proxmox.loose import Record, flag, integer, record, records, word
from vmconsole.hypervisors.proxmox.properties import MAX_SIZE
from vmconsole.hypervisors.qmp.client import QmpClient, QmpError
from vmconsole.model.guest import GuestState

_FILTERS = frozenset({"copy-before-write", "backup-top", "snapshot-access"})
_MIGRATING = frozenset({
    "setup", "cancelling", "active", "postcopy-active", "postcopy-paused", "postcopy-recover",
    "pre-switchover", "device", "wait-unplug", "colo",
})  # fmt: skip
_PFLASH = ("system.flash1", "virt.flash1")


@dataclass(frozen=True, slots=True)
class QemuDisk:
    """One disk as QEMU has it; fields as in PveDisk."""

    device: str
    node: str
    top: str
    throttle: str = ""
    size: int = 0
    allocated: int = 0
    bitmaps: tuple[BlockBitmap, ...] = ()


@dataclass(frozen=True, slots=True)
class QemuFacts:
    """state: from QEMU's run state. iothreads: ids. disks: by key, of those that were asked for.

    busy: whose backup, job or NBD server is in there, a phrase; empty when none.
    """

    version: tuple[int, ...]
    machine: str
    state: GuestState
    paused_by_error: bool = False
    backup_access: bool = False
    blockdev: bool = False
    migrating: bool = False
    busy: str = ""
    iothreads: frozenset[str] = frozenset()
    disks: Mapping[str, QemuDisk] = field(default_factory=dict)

    def has_iothread(self, key: str) -> bool:
        """Proxmox names an iothread after the disk, or after the controller that serves only it."""
        return f"iothread-{key}" in self.iothreads or f"iothread-virtio{key}" in self.iothreads


@dataclass(frozen=True, slots=True)
class _Graph:
    """Every node by name, and which node is the `file` child of which."""

    nodes: Mapping[str, Record]
    below: Mapping[str, str]


def ask_qemu(client: QmpClient, keys: Iterable[str]) -> QemuFacts:
    """Raises HostError when QEMU does not answer in time, ProtocolError."""
    status = word(record(client.execute("query-status")).get("status"))
    support = record(_optional(client, "query-proxmox-support"))
    blocks = records(client.execute("query-block"))
    flat = records(client.execute("query-named-block-nodes", {"flat": True}))
    named = {word(node.get("node-name")): node for node in flat}
    graph = _Graph(named, _below(client, blocks))
    return QemuFacts(
        version=client.version,
        machine=word(client.execute("qom-get", {"path": "/machine", "property": "type"})).removesuffix(
            "-machine"
        ),
        state=STATES.get(status, GuestState.OTHER),
        paused_by_error=status in ("io-error", "internal-error"),
        backup_access=flag(support.get("backup-access-api")),
        blockdev=not any(word(block.get("device")).startswith("drive-") for block in blocks),
        migrating=word(record(client.execute("query-migrate")).get("status")) in _MIGRATING,
        busy=_busy(client, named),
        iothreads=frozenset(word(item.get("id")) for item in records(client.execute("query-iothreads"))),
        disks={key: disk for key in keys if (disk := find_disk(key, blocks, graph)) is not None},
    )


def find_disk(key: str, blocks: Sequence[Record], graph: _Graph) -> QemuDisk | None:
    """None when QEMU does not have the disk. Raises ProtocolError when it has, but not as Proxmox does."""
    block = next((item for item in blocks if _is(key, item)), None)
    if block is None or not record(block.get("inserted")):
        return None
    inserted = record(block.get("inserted"))
    top = word(inserted.get("node-name"))
    throttle = top if inserted.get("drv") == "throttle" else ""
    name = graph.below.get(top, "") if throttle else top
    node = graph.nodes.get(name)
    if node is None:
        raise ProtocolError(f"QEMU does not say which node disk {key} is below its throttle.")
    image = record(node.get("image"))
    size = integer(image.get("virtual-size"))
    if not 0 < size <= MAX_SIZE:
        raise ProtocolError(f"QEMU reports an impossible size of {size} bytes for disk {key}.")
    return QemuDisk(
        device=f"drive-{key}",
        node=name,
        top=top,
        throttle=throttle,
        size=size,
        allocated=max(0, integer(image.get("actual-size"))),
        bitmaps=tuple(_bitmap(item) for item in records(node.get("dirty-bitmaps")) if item.get("name")),
    )


def _is(key: str, block: Record) -> bool:
    name = f"drive-{key}"
    if name in (block.get("device"), record(block.get("inserted")).get("node-name")):
        return True
    path = word(block.get("qdev")).removesuffix("/virtio-backend")
    if key == "efidisk0":
        return path.endswith(_PFLASH)
    return path.rpartition("/")[2] == key


def _below(client: QmpClient, blocks: Iterable[Record]) -> dict[str, str]:
    """Children as query-block tells them where it does (Proxmox's QEMU 10); else from the whole graph."""
    below: dict[str, str] = {}
    complete = True
    for block in blocks:
        inserted = record(block.get("inserted"))
        if inserted.get("drv") != "throttle":
            continue
        child = next((i for i in records(inserted.get("children")) if i.get("child") == "file"), {})
        below[word(inserted.get("node-name"))] = word(child.get("node-name"))
        complete = complete and bool(word(child.get("node-name")))
    if complete:
        return below
    answer = record(client.execute("x-debug-query-block-graph"))
    labels = {item.get("id"): word(item.get("name")) for item in records(answer.get("nodes"))}
    return {
        labels.get(edge.get("parent"), ""): labels.get(edge.get("child"), "")
        for edge in records(answer.get("edges"))
        if edge.get("name") == "file"
    }


def _bitmap(item: Record) -> BlockBitmap:
    return BlockBitmap(
        name=word(item.get("name")),
        recording=flag(item.get("recording")),
        busy=flag(item.get("busy")),
        persistent=flag(item.get("persistent")),
        inconsistent=flag(item.get("inconsistent")),
        count=max(0, integer(item.get("count"))),
        granularity=max(1, integer(item.get("granularity"), 65536)),
    )


def _busy(client: QmpClient, nodes: Mapping[str, Record]) -> str:
    if word(record(_optional(client, "query-backup")).get("status")) == "active":
        return "a backup by Proxmox"
    for job in records(client.execute("query-jobs")):
        if job.get("status") not in ("concluded", "null"):
            return _whose("job", word(job.get("id")), word(job.get("type")))
    for export in records(client.execute("query-block-exports")):
        return _whose("export", word(export.get("id")), word(export.get("type")))
    for name, node in nodes.items():
        if names.is_ours(name):
            return _whose("node", name, word(node.get("drv")))
    if any(node.get("drv") in _FILTERS for node in nodes.values()):
        return "a backup by another program"
    return ""


def _whose(what: str, name: str, kind: str) -> str:
    return f"a run of vmconsole (its {what} {name})" if names.is_ours(name) else f"the {kind} {what} {name}"


def _optional(client: QmpClient, command: str) -> Any:
    """None when this QEMU does not know the command."""
    try:
        return client.execute(command)
    except QmpError as error:
        if not error.unknown_command:
            raise
        return None
