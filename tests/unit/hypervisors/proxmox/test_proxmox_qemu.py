"""What a running QEMU says about disks in Proxmox's two layouts, from real QEMU processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qemu_process import PROGRAM, Qemu

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.proxmox import names
from vmconsole.hypervisors.proxmox.qemu import QemuFacts, ask_qemu
from vmconsole.hypervisors.qmp.client import QmpClient, QmpError
from vmconsole.model.guest import GuestState
from vmconsole.remote.local import LocalMachine

needs_qemu = pytest.mark.skipif(PROGRAM is None, reason="QEMU is not installed")

MIB = 1 << 20
KEYS = ("scsi0", "virtio1", "efidisk0", "sata0")
OURS = names.bitmap("deadbeef00112233", "run1")


@pytest.fixture(params=["drive", "blockdev"])
def qemu(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Qemu]:
    for name, size in (("scsi0", 8), ("virtio1", 4), ("efi", 1), ("code", 1)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size * MIB)
    scsi, virtio, efi, code = (str(tmp_path / name) for name in ("scsi0", "virtio1", "efi", "code"))
    devices = [
        "-object", "iothread,id=iothread-virtioscsi0",
        "-device", "virtio-scsi-pci,id=virtioscsi0,iothread=iothread-virtioscsi0",
        "-device", "scsi-hd,bus=virtioscsi0.0,channel=0,scsi-id=0,lun=0,drive=drive-scsi0,id=scsi0",
        "-device", "virtio-blk-pci,drive=drive-virtio1,id=virtio1",
    ]  # fmt: skip
    if request.param == "drive":
        disks = [
            "-machine", "type=pc,accel=tcg",
            "-drive", f"file={scsi},if=none,id=drive-scsi0,format=raw,cache=none,aio=threads",
            "-drive", f"file={virtio},if=none,id=drive-virtio1,format=raw",
            "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}",
            "-drive", f"if=pflash,unit=1,id=drive-efidisk0,format=raw,file={efi}",
        ]  # fmt: skip
    else:
        disks = [
            "-machine", "type=pc,accel=tcg,pflash0=pflash0,pflash1=drive-efidisk0",
            "-blockdev", f'{{"driver":"file","node-name":"pflash0","read-only":true,"filename":"{code}"}}',
            "-object", '{"qom-type":"throttle-group","id":"throttle-drive-scsi0","limits":{}}',
            "-object", '{"qom-type":"throttle-group","id":"throttle-drive-virtio1","limits":{}}',
            "-blockdev", _throttled("scsi0", scsi),
            "-blockdev", _throttled("virtio1", virtio),
            "-blockdev", '{"driver":"raw","node-name":"drive-efidisk0","file":{"driver":"file",'
            f'"filename":"{efi}","node-name":"e3"}}}}',
        ]  # fmt: skip
    with Qemu(tmp_path / "run", *disks, *devices) as process:
        process.layout = request.param  # type: ignore[attr-defined]
        yield process


def _throttled(key: str, path: str) -> str:
    return (
        f'{{"driver":"throttle","node-name":"drive-{key}","throttle-group":"throttle-drive-{key}","file":'
        f'{{"driver":"raw","node-name":"f{key}","file":{{"driver":"file","filename":"{path}",'
        f'"node-name":"e{key}"}}}}}}'
    )


def session(qemu: Qemu) -> QmpClient:
    return QmpClient.connect(LocalMachine("pve1"), str(qemu.path), "web on pve1")


def ask(qemu: Qemu) -> QemuFacts:
    with session(qemu) as client:
        return ask_qemu(client, KEYS)


@needs_qemu
def test_disks_in_both_layouts(qemu: Qemu) -> None:
    facts = ask(qemu)
    assert facts.state is GuestState.PAUSED
    assert facts.blockdev is (qemu.layout == "blockdev")  # type: ignore[attr-defined]
    assert not facts.backup_access
    assert facts.busy == ""
    assert facts.machine.startswith("pc-i440fx-")
    assert set(facts.disks) == {"scsi0", "virtio1", "efidisk0"}
    assert {key: disk.size // MIB for key, disk in facts.disks.items()} == {
        "scsi0": 8,
        "virtio1": 4,
        "efidisk0": 1,
    }
    assert facts.has_iothread("scsi0")
    assert not facts.has_iothread("virtio1")
    scsi = facts.disks["scsi0"]
    assert scsi.device == "drive-scsi0"
    if facts.blockdev:
        assert (scsi.node, scsi.throttle, scsi.top) == ("fscsi0", "drive-scsi0", "drive-scsi0")
        assert facts.disks["efidisk0"].node == "drive-efidisk0"
    else:
        assert scsi.node.startswith("#block")
        assert (scsi.throttle, scsi.top) == ("", scsi.node)


@needs_qemu
def test_bitmaps_are_those_of_the_node_below_the_throttle(qemu: Qemu) -> None:
    node = ask(qemu).disks["scsi0"].node
    with session(qemu) as client:
        for name, more in ((OURS, {}), ("pbs-incremental-dirty-bitmap", {"disabled": True})):
            client.execute("block-dirty-bitmap-add", {"node": node, "name": name, **more})
    found = {bitmap.name: bitmap for bitmap in ask(qemu).disks["scsi0"].bitmaps}
    assert found[OURS].recording
    assert not found["pbs-incremental-dirty-bitmap"].recording
    assert (found[OURS].busy, found[OURS].inconsistent, found[OURS].count) == (False, False, 0)
    assert found[OURS].granularity == 65536


@needs_qemu
def test_a_backup_of_somebody_else_is_told(qemu: Qemu) -> None:
    node = ask(qemu).disks["scsi0"].node
    with session(qemu) as client:
        client.execute(
            "blockdev-add",
            {"driver": "null-co", "node-name": "target0", "size": 8 * MIB, "read-zeroes": True},
        )
        client.execute(
            "blockdev-backup",
            {
                "job-id": "other0",
                "device": node,
                "target": "target0",
                "sync": "none",
                "filter-node-name": "theirs",
            },
        )
    assert ask(qemu).busy == "the backup job other0"


@needs_qemu
def test_what_a_dead_run_of_ours_left_is_told_as_ours(qemu: Qemu) -> None:
    with session(qemu) as client:
        client.execute(
            "blockdev-add",
            {"driver": "null-co", "node-name": "vmc-fl0", "size": 8 * MIB, "read-zeroes": True},
        )
    assert ask(qemu).busy == "a run of vmconsole (its node vmc-fl0)"


@needs_qemu
def test_an_export_is_told(qemu: Qemu) -> None:
    with session(qemu) as client:
        path = str(qemu.path.parent / "nbd")
        client.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": path}}})
        client.execute(
            "block-export-add", {"type": "nbd", "id": "migration", "node-name": ask_node(client), "name": "x"}
        )
    assert ask(qemu).busy == "the nbd export migration"


def ask_node(client: QmpClient) -> str:
    return ask_qemu(client, KEYS).disks["virtio1"].node


# --- answers no QEMU here gives ----------------------------------------------------------------


class Answers:
    """Stands for a session: answers from a table."""

    version = (10, 0, 2)

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {
            "query-status": {"status": "running"},
            "query-block": [],
            "query-named-block-nodes": [],
            "query-migrate": {},
            "query-iothreads": [],
            "query-jobs": [],
            "query-block-exports": [],
            "qom-get": "pc-q35-9.2+pve1-machine",
        } | {key.replace("_", "-"): value for key, value in answers.items()}

    def execute(self, command: str, arguments: object = None, *, timeout: float | None = None) -> Any:
        if command not in self.answers:
            raise QmpError("no", error_class="CommandNotFound", description="no")
        return self.answers[command]


def facts(**answers: Any) -> QemuFacts:
    return ask_qemu(Answers(**answers), ["scsi0"])  # type: ignore[arg-type]


THROTTLED = {
    "qdev": "scsi0",
    "device": "",
    "inserted": {
        "node-name": "drive-scsi0",
        "drv": "throttle",
        "children": [{"child": "file", "node-name": "f1"}],
    },
}
NODE = {
    "node-name": "f1",
    "drv": "raw",
    "image": {"virtual-size": 8 * MIB, "actual-size": 0},
    "dirty-bitmaps": [{"count": 3, "granularity": 65536, "recording": True}, {"name": "b", "recording": 1}],
}


def test_children_as_proxmox_tells_them() -> None:
    found = facts(query_block=[THROTTLED], query_named_block_nodes=[NODE])
    assert found.disks["scsi0"].node == "f1"
    assert [bitmap.name for bitmap in found.disks["scsi0"].bitmaps] == ["b"]
    assert found.machine == "pc-q35-9.2+pve1"
    assert found.blockdev


def test_proxmox_own_answers() -> None:
    assert facts(query_proxmox_support={"backup-access-api": True}).backup_access
    assert not facts(query_proxmox_support={"backup-access-api": False}).backup_access
    assert facts(query_backup={"status": "active"}).busy == "a backup by Proxmox"
    assert facts(query_backup={"status": "done"}).busy == ""
    assert (
        facts(query_named_block_nodes=[NODE | {"drv": "copy-before-write"}]).busy
        == "a backup by another program"
    )
    assert facts(query_jobs=[{"id": "x", "type": "mirror", "status": "concluded"}]).busy == ""
    assert facts(query_migrate={"status": "active"}).migrating
    assert not facts(query_migrate={"status": "completed"}).migrating
    assert facts(query_status={"status": "io-error"}).paused_by_error
    assert facts(query_status={"status": "inmigrate"}).state is GuestState.OTHER


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [NODE | {"image": {"virtual-size": 0}}],
        [NODE | {"image": {"virtual-size": 2**70}}],
        [NODE | {"image": None}],
    ],
)
def test_disks_that_make_no_sense(nodes: list[Any]) -> None:
    with pytest.raises(ProtocolError):
        facts(query_block=[THROTTLED], query_named_block_nodes=nodes)


def test_an_empty_drive_is_no_disk() -> None:
    assert facts(query_block=[{"qdev": "scsi0", "device": "drive-scsi0", "removable": True}]).disks == {}
