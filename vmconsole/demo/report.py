"""The report of `vmconsole demo --headless`: restore points beside what the demo host knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from vmconsole.model.point import DiskPoint, RestorePoint


def build_report(
    points: Iterable[RestorePoint], sha256: Callable[[RestorePoint, DiskPoint], str]
) -> dict[str, Any]:
    """The document of report.json. sha256: of the source disk at the cut, as the demo host computed it."""
    ordered = sorted(points, key=lambda point: (point.time, point.archive))
    return {"points": [_point(point, sha256) for point in ordered]}


def _point(point: RestorePoint, sha256: Callable[[RestorePoint, DiskPoint], str]) -> dict[str, Any]:
    return {
        "archive": point.archive,
        "guest": point.guest,
        "host": point.host,
        "hypervisor": point.hypervisor,
        "mode": point.mode.value,
        "consistency": point.consistency.value,
        "seconds": point.seconds,
        "disks": [
            {
                "id": disk.id,
                "path": disk.path,
                "size": disk.size,
                "sha256": sha256(point, disk),
                "bytes_dirty": disk.bytes_dirty,
                "bytes_read": disk.bytes_read,
                "bytes_stored": disk.bytes_stored,
            }
            for disk in point.stored_disks
        ],
    }
