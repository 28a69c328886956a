"""A file for Prometheus' textfile collector, in its text format 0.0.4."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from vmconsole.model.alert import AlertKind
from vmconsole.model.figures import Figures, GuestFigures
from vmconsole.model.message import Delivery

_Sample = tuple[dict[str, str], float]


class MetricsFile:
    """Implements interfaces.Metrics. Whoever reads the file sees the old one or the new one, never a part."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, figures: Figures) -> Delivery:
        try:
            _replace(self._path, text_of(figures).encode())
        except OSError as error:
            folder = shlex.quote(str(self._path.parent))
            return Delivery(
                "metrics",
                f"The metrics file {self._path} cannot be written: {error.strerror}.",
                f"Look at metrics in [notify], and at: ls -ld {folder}",
            )
        return Delivery("metrics")


def text_of(figures: Figures) -> str:
    return "".join(_lines(figures))


def _lines(figures: Figures) -> Iterator[str]:
    guests = [(_labels(guest), guest) for guest in figures.guests]
    good = [(labels, guest) for labels, guest in guests if guest.last_good is not None]
    yield from _metric(
        "guest_last_good_timestamp_seconds",
        "When the newest good restore point was made; missing without one.",
        [(labels, _seconds(guest.last_good)) for labels, guest in good],
    )
    yield from _metric(
        "guest_overdue",
        "1 when there has been no good restore point for too long.",
        [(labels, guest.overdue) for labels, guest in guests],
    )
    yield from _metric(
        "backup_failed",
        "1 when the newest attempt failed.",
        [(labels, guest.failed) for labels, guest in guests],
    )
    yield from _metric(
        "backup_seconds",
        "How long the newest good backup took.",
        [(labels, guest.seconds) for labels, guest in good],
    )
    yield from _metric(
        "backup_bytes_read",
        "What the newest good backup read from the host.",
        [(labels, guest.bytes_read) for labels, guest in good],
    )
    yield from _metric(
        "backup_bytes_stored",
        "What the newest good backup added to the repository.",
        [(labels, guest.bytes_stored) for labels, guest in good],
    )
    yield from _metric(
        "restore_points",
        "Restore points in the group's repository, as last seen.",
        [(labels, guest.points) for labels, guest in guests],
    )
    spaces = [({"repository": space.name}, space) for space in figures.repositories]
    yield from _metric(
        "repository_size_bytes",
        "Size of the file system that the repository is on.",
        [(labels, space.size) for labels, space in spaces],
    )
    yield from _metric(
        "repository_free_bytes", "What of it is free.", [(labels, space.free) for labels, space in spaces]
    )
    yield from _metric("unprotected_guests", "Guests in no group.", [({}, figures.unprotected)])
    yield from _metric(
        "scheduler_last_run_timestamp_seconds",
        "When the scheduler was last there.",
        [({}, _seconds(figures.time))],
    )
    yield from _metric(
        "alerts",
        "Alerts that hold, by kind.",
        [({"kind": kind.value}, figures.alerts.get(kind, 0)) for kind in AlertKind],
    )


def _labels(guest: GuestFigures) -> dict[str, str]:
    return {"guest": guest.guest, "uuid": guest.uuid, "host": guest.host, "group": guest.group}


def _metric(name: str, about: str, samples: Iterable[_Sample]) -> Iterator[str]:
    """All samples of a name stand together. A sample that is there twice makes the collector drop the file."""
    yield f"# HELP vmconsole_{name} {about}\n# TYPE vmconsole_{name} gauge\n"
    seen = set()
    for labels, value in samples:
        inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        place = f"vmconsole_{name}{{{inner}}}" if inner else f"vmconsole_{name}"
        if place not in seen:
            seen.add(place)
            yield f"{place} {_number(value)}\n"


def _escaped(text: str) -> str:
    # what is no UTF-8, as surrogates that came out of file names, would make the whole file unreadable
    valid = text.encode("utf-8", "replace").decode()
    return valid.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _seconds(moment: datetime | None) -> float:
    assert moment is not None
    return round(moment.timestamp(), 3)


def _replace(path: Path, content: bytes) -> None:
    # the collector reads *.prom only, so the unfinished file has another end
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            # without this a power failure may leave an empty file under the name
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
