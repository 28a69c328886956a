"""Reading which restore points are pinned (see borg/pinlist.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vmconsole.borg import pinlist
from vmconsole.borg.engine import catalog
from vmconsole.borg.engine.access import Access
from vmconsole.errors import PointNotFound, RepositoryDamaged
from vmconsole.model.point import RestorePoint


def pins(access: Access) -> dict[str, str]:
    """Archive name to archive id, of what the newest list says that can be read.

    Raises RepositoryDamaged when there are lists and none can be read: that nothing is pinned must not be
    concluded from it.
    """
    lists = sorted(filter(pinlist.is_pinlist, catalog.archive_ids(access)), reverse=True)
    reasons = []
    for name in lists:
        try:
            return pinlist.from_bytes(catalog.files(access, name)[pinlist.MEMBER])
        except (RepositoryDamaged, PointNotFound, KeyError, ValueError) as error:
            reasons.append(f"{name}: {error}")
    if reasons:
        raise RepositoryDamaged(
            f"What is pinned in repository {access.settings.name} cannot be read ({'; '.join(reasons)}).",
            hint=f"Look at the archive with `borg list {access.settings.target}`; once it is deleted, "
            "nothing is pinned and can be pinned again.",
            subject=access.settings.name,
        )
    return {}


def with_pins(access: Access, points: list[RestorePoint], warn: Callable[[str], None]) -> list[RestorePoint]:
    """The points, each saying whether it is pinned."""
    try:
        pinned = pins(access)
    except RepositoryDamaged as error:
        warn(error.message)
        return points
    ids = set(pinned.values())
    # By name or id: `borg rename` and `borg check --repair` give an archive another id.
    return [
        replace(point, pinned=True) if point.archive in pinned or point.archive_id in ids else point
        for point in points
    ]
