"""What is asked of QEMU: properties that keep guests alive and increments right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmconsole.hypervisors.proxmox.devices import VM_DISKS
from vmconsole.hypervisors.proxmox.facts import FleecingPlace
from vmconsole.hypervisors.proxmox.fleecing import allocate, free, images
from vmconsole.hypervisors.proxmox.graph import Access, GraphDisk, Plain, Shown, serve, storage_node
from vmconsole.hypervisors.proxmox.transaction_graph import Transaction

DISKS = (
    GraphDisk("scsi0", "drive-scsi0", "f0", 1 << 20, "/f/0", base="vmc-5a-old", ours=("vmc-5a-old",)),
    GraphDisk("virtio1", "drive-virtio1", "f1", 2 << 20, "/f/1"),
)
THROTTLED = tuple(replace(disk, throttle=disk.device, discard=True, zeroes="unmap") for disk in DISKS)


def commands(steps):
    return [step.get("qmp") or next(iter(step)) for step in steps]


def test_one_transaction_cuts_all_disks():
    (step,) = Transaction("vmc-5a-new", True, DISKS).cut()
    kinds = [action["type"] for action in step["arguments"]["actions"]]
    assert kinds == [
        "block-dirty-bitmap-add", "block-dirty-bitmap-disable", "blockdev-backup",
        "block-dirty-bitmap-add", "blockdev-backup",
    ]  # fmt: skip


def test_filters_break_the_snapshot_before_a_write():
    prepared = Transaction("vmc-5a-new", False, THROTTLED).prepare()
    filters = [s["arguments"] for s in prepared if s["arguments"].get("driver") == "copy-before-write"]
    assert [item["on-cbw-error"] for item in filters] == ["break-snapshot"] * 2
    assert all("bitmap" not in item for item in filters)


def test_filters_go_in_by_one_reopen_that_repeats_every_option():
    reopen, stop = Transaction("vmc-5a-new", False, THROTTLED).cut()
    assert reopen["arguments"]["options"][0] == {
        "driver": "throttle", "node-name": "drive-scsi0", "throttle-group": "throttle-drive-scsi0",
        "file": "vmc-cbw-scsi0", "detect-zeroes": "unmap", "discard": "unmap", "read-only": False,
    }  # fmt: skip
    assert len(reopen["arguments"]["options"]) == 2
    assert [a["type"] for a in stop["arguments"]["actions"]] == ["block-dirty-bitmap-disable"]


def test_filters_that_go_in_one_by_one_do_so_while_the_guest_is_paused():
    steps = Transaction("vmc-5a-new", False, DISKS).cut()
    assert commands(steps) == ["pause", "point", "point", "resume", "transaction"]


def test_bitmaps_are_merged_back_all_at_once_or_not_at_all():
    undo = Transaction("vmc-5a-new", True, DISKS).undo()
    merge, drop = undo[-2:]
    assert [action["type"] for action in merge["arguments"]["actions"]] == [
        "block-dirty-bitmap-enable", "block-dirty-bitmap-merge", "block-dirty-bitmap-remove",
    ]  # fmt: skip
    assert drop["arguments"] == {"node": "f1", "name": "vmc-5a-new"}


def test_only_bitmaps_of_this_repository_are_dropped():
    disk = replace(DISKS[0], ours=("vmc-5a-old", "vmc-5a-new", "vmc-5a-older"))
    steps = Transaction("vmc-5a-new", True, (disk,)).commit()
    dropped = [s["arguments"]["name"] for s in steps if s.get("qmp") == "block-dirty-bitmap-remove"]
    assert dropped == ["vmc-5a-old", "vmc-5a-older"]


def test_access_drops_the_mark_before_the_bitmap_begins_anew():
    steps = Access("vmconsole-5a", "vmc-5a-new", True, DISKS).commit()
    assert commands(steps)[:4] == [
        "unserve", "block-dirty-bitmap-remove", "backup-access-teardown", "block-dirty-bitmap-add",
    ]  # fmt: skip
    assert steps[2]["arguments"]["success"] is True
    assert Access("vmconsole-5a", "vmc-5a-new", True, DISKS).undo()[1]["arguments"]["success"] is False


@pytest.mark.parametrize("blockdev", [True, False])
def test_proxmoxs_own_names_are_touched_only_when_we_made_them(blockdev):
    access = Access("vmconsole-5a", "vmc-5a-new", blockdev, DISKS)
    made = {step["mark"] for step in access.prepare()}
    for step in [*access.undo(), *access.commit()]:
        if "-fleecing" in str(step):
            assert step["if"] in made
    assert "if=none,id=drive-scsi0-fleecing" in str(access.prepare()) or blockdev


def test_a_path_with_commas_stays_one_option():
    access = Access("t", "b", False, (replace(DISKS[0], image="/a,b,readonly=on"),))
    assert "file=/a,,b,,readonly=on,if=none" in str(access.prepare())


def test_every_name_fits_into_31_characters():
    for kind, count in VM_DISKS.items():
        disk = GraphDisk(f"{kind}{count - 1}", "", "", 1)
        for name in (disk.fleecing, disk.filter, disk.snapshot, Plain(disk.key, "/", "raw").node):
            assert len(name) <= 31


def test_exports_are_read_only_and_named_after_disks():
    start, export = serve("/run/x/nbd", [Shown("scsi0", "vmc-snap-scsi0", "f0", "vmc-5a-old")])
    assert start == {"serve": "/run/x/nbd"}
    assert export["arguments"] == {
        "type": "nbd", "id": "vmc-exp-scsi0", "name": "scsi0", "node-name": "vmc-snap-scsi0",
        "writable": False, "bitmaps": [{"node": "f0", "name": "vmc-5a-old"}],
    }  # fmt: skip


def test_volumes_of_every_kind_have_a_node():
    assert storage_node("/dev/pve/vm-1-disk-0")["driver"] == "host_device"
    assert storage_node("/var/lib/vz/images/1/vm-1-disk-0.raw")["driver"] == "file"
    assert storage_node("rbd:pool/vm-1-disk-0:conf=/etc/pve/ceph.conf:id=admin:keyring=/k") == {
        "driver": "rbd", "pool": "pool", "image": "vm-1-disk-0", "conf": "/etc/pve/ceph.conf", "user": "admin",
    }  # fmt: skip
    for path in ("", "gluster://a/b", "rbd:pool", "nbd:unix:/x"):
        with pytest.raises(ValueError, match=f"^{path}$"):
            storage_node(path)


def test_fleecing_images_are_freed_under_the_names_they_were_made():
    sizes = {"scsi0": 1 << 30, "efidisk0": 540672}
    made = images(FleecingPlace("storage", "local-lvm", 0, "lvmthin"), 100, "20261125-abc", sizes)
    first = allocate(made, 100)[0]
    assert first["run"] == [
        "pvesm", "alloc", "local-lvm", "100", "vm-100-fleece-vmc-20261125-abc-0", "1048576", "--format", "raw",
    ]  # fmt: skip
    assert free(made)[1]["run"] == ["pvesm", "free", "local-lvm:vm-100-fleece-vmc-20261125-abc-1"]
    files = images(FleecingPlace("storage", "local", 0, "dir"), 100, "r", sizes)
    assert files[0].volume == "local:100/vm-100-fleece-vmc-r-0.raw"
    assert allocate(files, 100)[0]["run"][4] == "vm-100-fleece-vmc-r-0.raw"
    loose = images(FleecingPlace("folder", "/fleece/", 0), 100, "r", sizes)
    assert free(loose)[0]["run"] == ["rm", "-f", "--", "/fleece/vmc-100-r-0.fleecing"]
