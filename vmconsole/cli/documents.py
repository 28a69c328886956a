"""The JSON documents of the commands (a contract: scripts read them)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from vmconsole.model.export import ExportPlan
from vmconsole.model.guest import Guest, HostInventory, HostLoad
from vmconsole.model.host_key import HostKey
from vmconsole.model.ledger import Mark
from vmconsole.model.point import DiskPoint, RestorePoint, disk_json, iso
from vmconsole.model.run import Run


def inventory_document(
    seen: Sequence[HostInventory],
    groups: Mapping[str, Sequence[str]],
    last_points: Mapping[str, RestorePoint],
    seen_at: Mapping[str, datetime],
) -> dict[str, Any]:
    """groups and last_points are by guest uuid; seen_at by host: when it was looked at, if it was."""
    return {
        "hosts": [
            {
                "name": host.name,
                "kind": host.kind.value,
                "reachable": host.reachable,
                "error": host.error or None,
                "seen": iso(seen_at[host.name]) if host.name in seen_at else None,
                "load": load_document(host.load),
                "warnings": list(host.warnings),
                "nodes": [
                    {
                        "name": node.name,
                        "online": node.online,
                        "address": node.address or None,
                        "version": node.version or None,
                        "load": load_document(node.load),
                    }
                    for node in host.nodes
                ],
                "storages": [
                    {
                        "name": storage.name,
                        "node": storage.node or None,
                        "type": storage.type,
                        "available": storage.available,
                        "content": list(storage.content),
                        "size": storage.size,
                        "used": storage.used,
                    }
                    for storage in host.storages
                ],
                "guests": [
                    guest_document(guest, groups.get(guest.uuid, ()), last_points.get(guest.uuid))
                    for guest in host.guests
                ],
            }
            for host in seen
        ]
    }


def load_document(load: HostLoad) -> dict[str, float | None]:
    return {"cpu": load.cpu, "io": load.io, "memory": load.memory}


def guest_document(guest: Guest, groups: Sequence[str], last: RestorePoint | None) -> dict[str, Any]:
    return {
        "uuid": guest.uuid,
        "id": guest.id,
        "name": guest.name,
        "host": guest.host,
        "kind": guest.kind.value,
        "state": guest.state.value,
        "agent": guest.agent,
        "tags": list(guest.tags),
        "pool": guest.pool or None,
        "node": guest.node or None,
        "template": guest.template,
        "ha": guest.ha or None,
        "lock": guest.lock or None,
        "in_host_jobs": guest.in_host_jobs,
        "groups": list(groups),
        "last_point": iso(last.time) if last else None,
        "warnings": list(guest.warnings),
        "disks": [
            {
                "id": disk.id,
                "size": disk.size,
                "format": disk.format,
                "included": disk.included,
                "reason": disk.reason or None,
                "tracking": disk.tracking.value,
                "source": disk.source,
            }
            for disk in guest.disks
        ],
    }


def point_document(point: RestorePoint, mark: Mark | None = None) -> dict[str, Any]:
    """mark: of a point that was pruned."""
    return {
        "archive": point.archive,
        "archive_id": point.archive_id,
        "guest": point.guest,
        "uuid": point.uuid,
        "host": point.host,
        "hypervisor": point.hypervisor,
        "time": iso(point.time),
        "mode": point.mode.value,
        "reason": point.reason or None,
        "consistency": point.consistency.value,
        "freeze_ms": point.freeze_ms,
        "size": point.size,
        "bytes_dirty": point.total("bytes_dirty"),
        "bytes_read": point.total("bytes_read"),
        "bytes_stored": point.total("bytes_stored"),
        "seconds": point.seconds,
        "together": dict(point.together) or None,
        # Verification is recorded by a later command; until it ran, nothing is claimed.
        "verified": None,
        "pinned": point.pinned,
        "pruned": iso(mark.marked) if mark else None,
        "group": point.group or None,
        "schedule": point.schedule or None,
        "warnings": list(point.warnings),
        "disks": [_disk_document(disk) for disk in point.disks],
    }


def _disk_document(disk: DiskPoint) -> dict[str, Any]:
    """As in guest.json, but what there is not is null."""
    return {key: None if value == "" else value for key, value in disk_json(disk).items()}


def plan_document(plan: ExportPlan) -> dict[str, Any]:
    return {
        "guest": plan.guest.name,
        "uuid": plan.guest.uuid,
        "host": plan.guest.host,
        "mode": plan.mode.value,
        "reason": plan.reason or None,
        "method": plan.method,
        "method_reason": plan.method_reason or None,
        "bytes_expected": plan.bytes_expected,
        "warnings": list(plan.warnings),
        "disks": [
            {
                "id": disk.id,
                "size": disk.size,
                "mode": disk.mode.value,
                "reason": disk.reason or None,
                "parent": disk.parent or None,
                "bytes_expected": disk.bytes_expected,
            }
            for disk in plan.disks
        ],
    }


def key_document(key: HostKey, *, trusted: bool) -> dict[str, Any]:
    """before: the fingerprint that was trusted until now."""
    return {
        "host": key.host,
        "address": key.address,
        "type": key.type,
        "fingerprint": key.fingerprint,
        "trusted": trusted,
        "before": key.trusted or None,
    }


def run_document(run: Run) -> dict[str, Any]:
    return {
        "run": run.id,
        "kind": run.kind,
        "subject": run.subject,
        "state": run.state.value,
        "started": iso(run.started),
        "ended": iso(run.ended) if run.ended else None,
        "error": run.error or None,
        "exit_code": run.exit_code,
    }
