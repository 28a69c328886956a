"""What users call guests and restore points, made exact. Ambiguity is an error that lists the candidates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date

from vmconsole.errors import GuestNotFound, PointNotFound
from vmconsole.model.guest import Guest
from vmconsole.model.point import RestorePoint, slug

_UUID_PREFIX = re.compile(r"[0-9a-f]{4}[0-9a-f-]{0,32}")


def find_guest(text: str, guests: Iterable[Guest]) -> Guest:
    """A guest by name, `host/name`, the host's own id, or uuid (prefix of at least four digits).

    Raises GuestNotFound.
    """
    known = list(guests)
    for matches in (
        [guest for guest in known if guest.uuid == text.lower()],
        [guest for guest in known if f"{guest.host}/{guest.name}" == text],
        [guest for guest in known if guest.name == text],
        [guest for guest in known if guest.id == text],
        [guest for guest in known if _is_uuid_prefix(text) and guest.uuid.startswith(text.lower())],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            candidates = ", ".join(sorted(f"{guest.host}/{guest.name} ({guest.uuid})" for guest in matches))
            raise GuestNotFound(
                f"{text!r} names {len(matches)} guests: {candidates}.",
                hint="Name it as host/name, or by its uuid.",
                subject=text,
            )
    raise GuestNotFound(
        f"There is no guest {text!r} on the configured hosts.",
        hint=_nearest(text, known) or "List them with: vmconsole inventory --refresh",
        subject=text,
    )


def find_point(text: str, points: Sequence[RestorePoint]) -> RestorePoint:
    """A point by archive name, `GUEST@latest`, `GUEST@2026-11-22` (the last of that day) or `GUEST@-2`.

    points: newest first. GUEST is a name, `host/name`, or uuid (prefix). Raises PointNotFound.
    """
    for point in points:
        if text and text in (point.archive, point.archive_id):
            return point
    guest, separator, when = text.rpartition("@")
    if not separator:
        guest, when = text, ""
    of_guest = points_of(guest, points) if guest else []
    if not of_guest:
        raise PointNotFound(
            f"There is no restore point {text!r}.",
            hint="List them with: vmconsole points",
            subject=text,
        )
    if not when:
        raise PointNotFound(
            f"{text!r} names a guest, not one of its {len(of_guest)} restore points.",
            hint=f"The newest is {guest}@latest; list all with: vmconsole points {guest!r}",
            subject=text,
        )
    found = _at(when, of_guest)
    if found is None:
        raise PointNotFound(
            f"{guest!r} has no restore point {when!r}; it has {len(of_guest)}, "
            f"from {of_guest[-1].time:%Y-%m-%d %H:%M} to {of_guest[0].time:%Y-%m-%d %H:%M}.",
            hint=f"Say {guest}@latest, {guest}@{of_guest[0].time:%Y-%m-%d} or {guest}@-1.",
            subject=text,
        )
    return found


def points_of(guest: str, points: Sequence[RestorePoint]) -> list[RestorePoint]:
    """The points of one guest, in the order given. Raises PointNotFound when the name fits several guests."""
    lowered = guest.lower()
    for matches in (
        [point for point in points if point.uuid == lowered],
        [point for point in points if f"{point.host}/{point.guest}" == guest],
        [point for point in points if point.guest == guest],
        [point for point in points if _is_uuid_prefix(guest) and point.uuid.startswith(lowered)],
        [point for point in points if slug(point.guest) == guest],
    ):
        uuids = sorted({point.uuid for point in matches})
        if len(uuids) == 1:
            return matches
        if uuids:
            raise PointNotFound(
                f"{guest!r} names {len(uuids)} guests: {', '.join(uuids)}.",
                hint="Name it by its uuid.",
                subject=guest,
            )
    return []


def _at(when: str, points: Sequence[RestorePoint]) -> RestorePoint | None:
    if when == "latest":
        return points[0]
    if re.fullmatch(r"-\d{1,6}", when):
        back = -int(when)
        return points[back] if back < len(points) else None
    try:
        day = date.fromisoformat(when)
    except ValueError:
        return next((point for point in points if point.time.isoformat().startswith(when)), None)
    return next(
        (point for point in points if day in (point.time.date(), point.time.astimezone().date())), None
    )


def _is_uuid_prefix(text: str) -> bool:
    return _UUID_PREFIX.fullmatch(text.lower()) is not None


def _nearest(text: str, guests: Sequence[Guest]) -> str:
    close = sorted({guest.name for guest in guests if text.lower() in guest.name.lower()})[:5]
    return f"Did you mean {', '.join(repr(name) for name in close)}?" if close else ""
