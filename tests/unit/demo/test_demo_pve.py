"""The demo's Proxmox cluster under the real adapter, where the command line's own tests do not reach."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import pytest
from test_demo_adapter import REPOSITORY, CountingJournal, RealClock, copy, ignore

from vmconsole.demo.pve.cluster import Cluster
from vmconsole.demo.pve.machines import Vm
from vmconsole.demo.shop import Shop
from vmconsole.disks.nbd.client import NbdClient
from vmconsole.errors import GuestBusy, VmconsoleError
from vmconsole.hypervisors.proxmox.host import ProxmoxHost
from vmconsole.hypervisors.proxmox.nodes import Nodes
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.qmp.client import QmpClient, QmpError
from vmconsole.interfaces import Cancel, Context, Export, ExportOptions
from vmconsole.model.guest import GuestKind, GuestState
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint
from vmconsole.remote.ssh import SshMachine
from vmconsole.remote.ssh_settings import SshSettings

MIB = 1 << 20
TARGET = f"vmconsole-{REPOSITORY[:12]}"


@pytest.fixture
def nodes(shop: Shop) -> Iterator[Nodes]:
    def connect(node: str, address: str) -> SshMachine:
        where = address or f"root@127.0.0.1:{shop.nodes['pve1'].port}"
        known = shop.ssh.known_hosts
        key = (shop.ssh.client_key,)
        return SshMachine(
            SshSettings(node or "pve", where, known, identity_files=key, config_file=None, use_agent=False)
        )

    listed = {name: f"root@127.0.0.1:{server.port}" for name, server in shop.nodes.items()}
    made = Nodes("pve", connect, listed, RealClock())
    yield made
    made.close()


@pytest.fixture
def adapter(nodes: Nodes) -> ProxmoxHost:
    return ProxmoxHost(nodes, ProxmoxSettings(fleecing_min_free=MIB))


@pytest.fixture
def crm(shop: Shop) -> Vm:
    return shop.cluster.vm(100)


def export(adapter: ProxmoxHost, vm: Vm, run: str, points: list[RestorePoint]) -> Export:
    plan = adapter.plan(vm.guest.uuid, REPOSITORY, points, ExportOptions())
    return adapter.export(plan, Context(run, ignore, Cancel(), CountingJournal(), RealClock()))


def point(vm: Vm, opened: Export, run: str) -> RestorePoint:
    return RestorePoint(
        archive=run,
        guest=vm.name,
        uuid=vm.guest.uuid,
        host="pve",
        hypervisor="proxmox",
        time=opened.cut.time,
        consistency=opened.cut.consistency,
        run=run,
        facts=opened.cut.facts,
        disks=tuple(
            DiskPoint(
                id=disk.plan.id,
                path="",
                size=disk.plan.size,
                format=disk.plan.format,
                mode=disk.plan.mode,
                source=disk.plan.source,
                bitmap=disk.bitmap,
                process=disk.process,
            )
            for disk in opened.disks
        ),
    )


def check(shop: Shop, vm: Vm, opened: Export, run: str, images: dict[str, bytearray]) -> None:
    for disk in opened.disks:
        wanted = shop.cut_sha256(vm.guest.uuid, disk.plan.id, run=run, time=opened.cut.time)
        assert hashlib.sha256(images[disk.plan.id]).hexdigest() == wanted


def leftovers(cluster: Cluster, vm: Vm) -> list[object]:
    """What a backup must not leave behind, but for bitmaps."""
    monitor = cluster.monitor(vm.vmid)
    assert monitor is not None
    folder = cluster.nodes[vm.node].run / "qemu-server" / f"{vm.vmid}.vmc"
    held = [*cluster.volumes.made, *monitor.access.nodes_told(), *monitor.access.exports_told()]
    return [
        *held,
        *folder.parent.glob("*.vmc"),
        *([vm.conf.values["lock"]] if "lock" in vm.conf.values else []),
    ]


def test_the_inventory_tells_what_the_guests_are(adapter: ProxmoxHost) -> None:
    guests = {guest.name: guest for guest in adapter.inventory().guests}
    assert guests["crm-01"].tags == ("prod",)
    assert [disk.id for disk in guests["crm-01"].disks] == ["scsi0", "virtio1"]
    assert guests["till-09"].state is GuestState.OFF
    assert (guests["dns-01"].kind, guests["dns-01"].node) == (GuestKind.CONTAINER, "pve2")


def test_the_nodes_are_fit_for_backups(adapter: ProxmoxHost) -> None:
    assert [item for item in adapter.check() if not item.ok and not item.warning] == []


def test_a_run_that_failed_is_made_good_by_the_next_increment(
    shop: Shop, adapter: ProxmoxHost, crm: Vm
) -> None:
    images: dict[str, bytearray] = {}
    opened = export(adapter, crm, "run-1", [])
    assert opened.cut.consistency is Consistency.APPLICATION
    copy(opened, images)
    opened.release()
    opened.advance()
    check(shop, crm, opened, "run-1", images)
    points = [point(crm, opened, "run-1")]
    assert leftovers(shop.cluster, crm) == []

    shop.night(2)
    opened = export(adapter, crm, "run-2", points)
    crm.guest.disks[0].disk.write_many([(120 * MIB, b"written while run 2 reads")])
    opened.rollback()
    assert leftovers(shop.cluster, crm) == []

    opened = export(adapter, crm, "run-3", points)
    assert {disk.plan.mode for disk in opened.disks} == {Mode.INCREMENTAL}
    copy(opened, images)
    opened.release()
    opened.advance()
    check(shop, crm, opened, "run-3", images)
    assert images["scsi0"][120 * MIB :].startswith(b"written while run 2 reads")


def test_only_what_changed_can_be_read_of_an_increment(
    shop: Shop, adapter: ProxmoxHost, nodes: Nodes, crm: Vm
) -> None:
    opened = export(adapter, crm, "run-1", [])
    opened.release()
    opened.advance()
    crm.guest.disks[0].disk.write_many([(64 * MIB, b"new")])
    again = export(adapter, crm, "run-2", [point(crm, opened, "run-1")])
    socket = f"/run/qemu-server/{crm.vmid}.vmc/nbd"
    client = NbdClient.connect(
        nodes.machine("pve1").open_unix(socket), "scsi0", (f"qemu:dirty-bitmap:{TARGET}",)
    )
    dirty = [run for run in client.block_status()[f"qemu:dirty-bitmap:{TARGET}"] if run[2]]
    assert dirty == [(64 * MIB, 4 * MIB, 1)], "Proxmox's bitmaps have a granularity of 4 MiB"
    assert b"".join(bytes(piece) for _, piece in client.read([(64 * MIB, 3)])) == b"new"
    with pytest.raises(VmconsoleError):
        list(client.read([(0, 4096)]))
    client.close()
    again.rollback()


def test_a_broken_connection_leaves_the_node_as_it_was(shop: Shop, adapter: ProxmoxHost, crm: Vm) -> None:
    opened = export(adapter, crm, "lost", [])
    assert leftovers(shop.cluster, crm)
    with pytest.raises(GuestBusy):
        export(adapter, crm, "second", [])
    for server in shop.nodes.values():
        server.drop_connections()
    deadline = time.monotonic() + 20
    while leftovers(shop.cluster, crm):
        assert time.monotonic() < deadline, "the guard did not clean up"
        time.sleep(0.05)
    with pytest.raises(VmconsoleError):
        copy(opened, {})
    opened.rollback()
    assert not crm.guest.frozen
    again = export(adapter, crm, "again", [])
    again.rollback()
    assert leftovers(shop.cluster, crm) == []


def test_a_guest_that_stops_ends_its_backup(shop: Shop, adapter: ProxmoxHost, crm: Vm) -> None:
    opened = export(adapter, crm, "run-1", [])
    shop.cluster.stop(crm)
    with pytest.raises(VmconsoleError, match="stopped while it was read"):
        opened.release()
    opened.rollback()
    assert shop.cluster.volumes.made == {}
    assert "lock" not in crm.conf.values


def test_the_monitor_refuses_as_qemu_does(nodes: Nodes) -> None:
    with QmpClient.connect(nodes.machine("pve1"), "/var/run/qemu-server/100.qmp", "crm-01") as client:
        assert client.version == (10, 1, 2)
        with pytest.raises(QmpError, match="has not been found") as caught:
            client.execute("blockdev-mirror")
        assert caught.value.unknown_command
        with pytest.raises(QmpError, match="drive-scsi0-fleecing' not found"):
            client.execute("backup-access-setup", {"target-id": "x", "devices": [{"device": "drive-scsi0"}]})
        with pytest.raises(QmpError, match="NBD server not running"):
            client.execute("block-export-add", {"id": "x", "node-name": "drive-scsi0", "type": "nbd"})


def test_programs_of_a_node_refuse_what_they_do_not_know(nodes: Nodes) -> None:
    machine = nodes.machine("pve1")
    assert machine.run(["perl", "-e", "print 1"], check=False).status
    assert "does not exist" in machine.run(["qm", "set", "110", "--lock", "backup"], check=False).errors
    assert "does not exist" in machine.run(["pvesm", "free", "fast:100/vm-100-x.raw"], check=False).errors
    assert "unable to find" in machine.run(
        ["vzdump", "110", "--stdout", "--dumpdir", "/var/tmp"], check=False
    ).errors  # fmt: skip


def test_the_vitals_tell_how_long_its_machines_writes_take(shop: Shop, adapter: ProxmoxHost, crm: Vm) -> None:
    before = adapter.vitals([crm.guest.uuid])
    assert before.load.io is not None
    shop.night(2)
    after = adapter.vitals([crm.guest.uuid])
    assert after.writes[crm.guest.uuid].requests > before.writes[crm.guest.uuid].requests
    assert after.writes[crm.guest.uuid].seconds > before.writes[crm.guest.uuid].seconds
