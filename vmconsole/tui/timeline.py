"""The coming night, drawn: a row for each host, a column for each piece of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.text import Text

from vmconsole.schedule.forecast import Forecast, Planned
from vmconsole.schedule.jobs import HOST
from vmconsole.tui.format import fit, safe

_LEVELS = "▁▂▃▄▅▆▇█"
LABEL = 14
"""Columns before the time begins."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One host. busy: the most guests at a time in each piece of time; waiting: whether others had to wait then."""

    host: str
    limit: int
    busy: tuple[int, ...]
    waiting: tuple[bool, ...]

    @property
    def peak(self) -> int:
        return max(self.busy, default=0)


def lanes(
    forecast: Forecast,
    hosts: Sequence[str],
    limits: Mapping[str, int],
    start: datetime,
    end: datetime,
    pieces: int,
) -> list[Lane]:
    """hosts: those that have a row even when nothing happens there. pieces: of the time from start to end."""
    step = (end - start) / pieces
    by_host: dict[str, list[Planned]] = {host: [] for host in hosts}
    for planned in forecast.planned:
        for host in _hosts_of(planned):
            by_host.setdefault(host, []).append(planned)
    found = []
    for host, works in by_host.items():
        busy, waiting = [], []
        for piece in range(pieces):
            begins, ends = start + piece * step, start + (piece + 1) * step
            running = [work for work in works if work.start < ends and work.end > begins]
            busy.append(_most_at_once(running, begins, ends))
            waiting.append(
                any(work.job.due < ends and work.start > max(begins, work.job.due) for work in works)
            )
        found.append(Lane(host, limits.get(host, 0), tuple(busy), tuple(waiting)))
    return found


def draw(found: Sequence[Lane], start: datetime, end: datetime, *, ascii_only: bool = False) -> list[Text]:
    """The axis, then a line for each host: how many guests at a time, of how many that may be."""
    pieces = len(found[0].busy) if found else 0
    lines = [_axis(start, end, pieces)]
    for lane in found:
        line = fit(safe(lane.host, "strong"), LABEL - 5)
        limit = f"{lane.peak}/{lane.limit}" if lane.limit else f"{lane.peak}"
        line.append(f"{limit:>4} ", "late" if any(lane.waiting) else "quiet")
        for busy, waits in zip(lane.busy, lane.waiting, strict=True):
            line.append(
                _cell(busy, lane, ascii_only=ascii_only), "late" if waits else "running" if busy else "quiet"
            )
        lines.append(line)
    return lines


def _cell(busy: int, lane: Lane, *, ascii_only: bool) -> str:
    if busy <= 0:
        return "." if ascii_only else "·"
    if ascii_only:
        return str(min(busy, 9))
    share = busy / max(lane.limit, lane.peak, 1)
    return _LEVELS[min(7, max(1, round(share * 8) - 1))]


def _axis(start: datetime, end: datetime, pieces: int) -> Text:
    """The hours, where each begins and there is room."""
    letters = [" "] * (LABEL + pieces)
    if pieces:
        step = (end - start) / pieces
        hour = start.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        free = 0
        while hour < end:
            at = LABEL + round((hour - start) / step)
            label = f"{hour:%H}"
            if at >= free and at + len(label) <= len(letters):
                letters[at : at + len(label)] = label
                free = at + len(label) + 2
            hour += timedelta(hours=1)
    return Text("".join(letters), "quiet", end="")


def _hosts_of(planned: Planned) -> list[str]:
    return sorted({resource.name for resource in planned.job.resources if resource.kind == HOST})


def _most_at_once(works: Sequence[Planned], begins: datetime, ends: datetime) -> int:
    moments = [begins, *(work.start for work in works if begins < work.start < ends)]
    return max(sum(work.start <= moment < work.end for work in works) for moment in moments) if works else 0
