from __future__ import annotations

import json
from datetime import UTC, datetime

from vmconsole.demo.report import build_report
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint


def point(day: int, *disks: DiskPoint) -> RestorePoint:
    return RestorePoint(
        archive=f"db.0-{day}",
        guest='files "old"',
        uuid="0",
        host="kvm1",
        hypervisor="libvirt",
        time=datetime(2026, 11, day, tzinfo=UTC),
        consistency=Consistency.CRASH,
        disks=disks,
        seconds=1.5,
    )


def test_the_report_has_every_stored_disk_with_the_hosts_own_checksum() -> None:
    stored = DiskPoint("vda", "disks/vda.raw", 100, "qcow2", Mode.INCREMENTAL, bytes_dirty=9, bytes_read=8,
                       bytes_stored=7, sha256="the backup's own")  # fmt: skip
    skipped = DiskPoint("sda", "", 0, "raw", Mode.SKIPPED)
    later, earlier = point(22, stored, skipped), point(21, stored)
    report = build_report([later, earlier], lambda point, disk: f"{point.archive} {disk.id}")
    assert [item["archive"] for item in report["points"]] == ["db.0-21", "db.0-22"]
    assert json.loads(json.dumps(report["points"][1])) == {
        "archive": "db.0-22",
        "guest": 'files "old"',
        "host": "kvm1",
        "hypervisor": "libvirt",
        "mode": "incremental",
        "consistency": "crash",
        "seconds": 1.5,
        "disks": [
            {
                "id": "vda",
                "path": "disks/vda.raw",
                "size": 100,
                "sha256": "db.0-22 vda",
                "bytes_dirty": 9,
                "bytes_read": 8,
                "bytes_stored": 7,
            }
        ],
    }
