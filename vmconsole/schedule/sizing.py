"""What a work takes up: hosts, storages, time and bytes, as the order of work wants to know it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from vmconsole.model.guest import Guest
from vmconsole.model.history import BackupRecord
from vmconsole.runs.work import Work
from vmconsole.schedule.expect import expect
from vmconsole.schedule.jobs import HOST, UPLINK, Job, Resource

GUEST = "guest"
"""A kind of resource: a guest is in one job at a time, whatever groups it is in."""


def job_of(
    work: Work,
    due: datetime,
    records_of: Callable[[str], Sequence[BackupRecord]],
    *,
    deadline: datetime | None = None,
    overdue: float = 0.0,
) -> Job:
    """records_of: what became of a guest (uuid) before, newest first."""
    guests = [target.guest for target in work.targets]
    expected = [
        expect(target.guest, records_of(target.guest.uuid), full=bool(target.options.full_reason))
        for target in work.targets
    ]
    first, *more = sorted({host_of(guest) for guest in guests})
    storages = {name for guest in guests for name in storages_of(guest)}
    line, *lines = sorted({target.uplink for target in work.targets if target.uplink}) or [""]
    return Job(
        key=work.key,
        guest=", ".join(guest.name for guest in guests),
        host=first,
        repository=work.targets[0].repository.name,
        seconds=max(item.seconds for item in expected),
        bytes=sum(item.bytes for item in expected),
        due=due,
        storages=tuple(sorted(storages)),
        uplink=line,
        deadline=deadline,
        overdue=overdue,
        also=(
            *(Resource(HOST, name) for name in more),
            *(Resource(UPLINK, name) for name in lines),
            *(Resource(GUEST, guest.uuid) for guest in guests),
        ),
    )


def host_of(guest: Guest) -> str:
    """Its host, of a cluster the node: what has a processor and disks of its own."""
    return f"{guest.host}/{guest.node}" if guest.node else guest.host


def storages_of(guest: Guest) -> tuple[str, ...]:
    """The storages its disks are on, as the host names them: of Proxmox the storage, else the folder."""
    names = set()
    for disk in guest.disks:
        if disk.included and disk.source:
            folder, slash, _ = disk.source.rpartition("/")
            storage, colon, _ = disk.source.partition(":")
            name = storage if colon and "/" not in storage else folder if slash else disk.source
            names.add(f"{guest.host}:{name or '/'}")
    return tuple(sorted(names))
