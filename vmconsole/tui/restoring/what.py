"""Step 1: which restore point, and what of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, datetime
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Static

from vmconsole.model.point import RestorePoint
from vmconsole.model.words import age, duration, size
from vmconsole.tui.context import console_of
from vmconsole.tui.format import safe
from vmconsole.tui.restoring.choice import Candidate, What, is_container, why_not_what
from vmconsole.tui.widgets.calendar import Calendar, Month
from vmconsole.tui.widgets.choices import Choices, Option
from vmconsole.tui.widgets.listing import Column, Listing


class WhatStep(Vertical):
    """Points on the right, their days and the facts of the chosen one on the left, below what can be restored."""

    DEFAULT_CSS: ClassVar = """
    WhatStep { height: 1fr; }
    WhatStep #upper { height: 1fr; }
    WhatStep #left { width: 29; padding: 0 0 0 1; }
    WhatStep #facts { height: 1fr; }
    WhatStep #restorable { margin: 1 0 0 0; }
    WhatStep #meaning { height: 3; padding: 0 2; }
    """

    class Chosen(Message):
        """Another point, or something else of it."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._failed: Collection[date] = ()
        self._good: Collection[date] = ()

    def compose(self) -> ComposeResult:
        with Horizontal(id="upper"):
            with Vertical(id="left"):
                yield Calendar()
                yield Static(id="facts", markup=False)
            yield Listing(
                self._columns(),
                lambda row: row.key,
                lambda row: {"name": row.point.archive},
                empty="Reading the restore points …",
                id="points",
            )
        yield Choices(id="restorable")
        yield Static(id="meaning", markup=False)

    def _columns(self) -> list[Column[Candidate]]:
        return [
            Column(
                "restore point", 16, lambda row: safe(f"{self._local(row.point):%Y-%m-%d %H:%M}", "strong")
            ),
            Column("", 11, self._age, drop=3),
            Column("mode", 11, lambda row: safe(row.point.mode.value, "quiet"), drop=1),
            Column("consistent", 11, _consistency, drop=2),
            Column("size", 9, lambda row: safe(size(row.point.size)), right=True, drop=5),
            Column("read", 9, lambda row: safe(size(row.point.total("bytes_read"))), right=True, drop=6),
            Column("group", 10, lambda row: safe(row.point.group or "by hand", "quiet"), drop=7),
            Column("host", 8, lambda row: safe(row.point.host, "quiet"), drop=8),
            Column("repository", 10, lambda row: safe(row.repository, "quiet"), drop=9),
            Column("", 6, _mark, drop=4, grow=True),
        ]

    # --- what is there ---

    @property
    def listing(self) -> Listing[Candidate]:
        return self.query_one(Listing)

    @property
    def what(self) -> What:
        option = self.query_one("#restorable", Choices).current
        return What(option.id) if option else What.GUEST

    def show(self, candidates: Sequence[Candidate], failed: Collection[date], chosen: str) -> None:
        """chosen: the key of the point for the cursor."""
        self._failed = failed
        self._good = {self._local(item.point).date() for item in candidates}
        self.listing.empty = "There is no restore point of this guest yet: back it up first (b on Guests)."
        self.listing.show(candidates)
        if chosen:
            self.listing.move_to(chosen)
        self.show_point()

    def show_point(self) -> None:
        candidate = self.listing.current
        point = candidate.point if candidate else None
        day = self._local(point).date() if point else None
        today = console_of(self).picture.now.astimezone(console_of(self).picture.zone).date()
        shown = day or today
        self.query_one(Calendar).show(Month(shown.year, shown.month, self._good, self._failed, day, today))
        paint = console_of(self).colours.paint
        self.query_one("#facts", Static).update(paint(self._facts(candidate)))
        self.query_one("#restorable", Choices).show(options(point))
        self.show_meaning()

    def show_meaning(self) -> None:
        candidate = self.listing.current
        told = meaning(self.what, candidate.point if candidate else None)
        self.query_one("#meaning", Static).update(console_of(self).colours.paint(told))

    def go_to_day(self, wanted: date) -> bool:
        """The newest point of that day; False when there is none."""
        for row in self.listing.shown:
            if self._local(row.point).date() == wanted:
                return self.listing.move_to(row.key)
        return False

    def go_by_month(self, by: int) -> bool:
        """To the newest point of the next month, back (-1) or on (+1), that has one; False when none has."""
        current = self.listing.current
        if current is None:
            return False
        here = self._month(current)
        months = sorted({self._month(row) for row in self.listing.shown})
        at = months.index(here) + by
        if not 0 <= at < len(months):
            return False
        wanted = next(row for row in self.listing.shown if self._month(row) == months[at])
        return self.listing.move_to(wanted.key)

    def _month(self, row: Candidate) -> tuple[int, int]:
        local = self._local(row.point)
        return local.year, local.month

    def on_listing_moved(self) -> None:
        self.show_point()
        self.post_message(self.Chosen())

    def on_choices_changed(self) -> None:
        self.show_meaning()
        self.post_message(self.Chosen())

    def on_calendar_picked(self, message: Calendar.Picked) -> None:
        if not self.go_to_day(message.day):
            self.notify(f"No restore point on {message.day:%Y-%m-%d}.", severity="warning")

    # --- cells ---

    def _local(self, point: RestorePoint) -> datetime:
        return point.time.astimezone(console_of(self).picture.zone)

    def _age(self, row: Candidate) -> Text:
        return safe(age(console_of(self).picture.now - row.point.time), "quiet")

    def _facts(self, candidate: Candidate | None) -> Text:
        text = Text(end="")
        if candidate is None:
            return text
        point = candidate.point
        text.append_text(safe(f"{self._local(point):%A %d %B, %H:%M}", "title")).append("\n")
        text.append(f"{disks_of(point)}, {size(point.size)}\n")
        text.append(f"{_MEANING[point.consistency.value]}\n", "quiet")
        if point.pinned:
            text.append("pinned: kept for good\n", "key")
        if candidate.pruned:
            text.append("pruned: still there, until it is compacted\n", "late")
        if point.freeze_ms is not None:
            text.append(f"frozen for {duration(point.freeze_ms / 1000)}\n", "quiet")
        for warning in point.warnings:
            text.append("! ", "warning").append_text(Text(safe(warning).plain)).append("\n")
        for disk in point.stored_disks:
            text.append_text(safe(f"{disk.id}  {size(disk.size)}  {disk.format}", "quiet")).append("\n")
        text.append_text(safe(f"from {point.host}, in repository {candidate.repository}", "quiet"))
        return text


_MEANING = {
    "application": "application: files were whole",
    "crash": "crash: as after a power cut",
    "offline": "offline: the guest was off",
}


def _consistency(row: Candidate) -> Text:
    return safe(row.point.consistency.value, "quiet")


def _mark(row: Candidate) -> Text:
    if row.pruned:
        return safe("pruned", "late")
    return safe("pinned", "key") if row.point.pinned else Text("", end="")


def disks_of(point: RestorePoint) -> str:
    if is_container(point):
        return "a container's files"
    count = len(point.stored_disks)
    return "1 disk" if count == 1 else f"{count} disks"


def options(point: RestorePoint | None) -> list[Option]:
    """What can be restored of a point, first what can be done now."""
    container = point is not None and is_container(point)
    several = point is not None and len(point.stored_disks) > 1
    told = f"{disks_of(point)}, {size(point.size)}" if point else ""
    every = "all its files, as one tar" if container else "all disks, as files"
    labels: list[tuple[What, str, str]] = [
        (What.GUEST, "the whole guest, as a new one", f"beside what is there, on any {_hosts(container)}"),
        (What.DISKS, every if several or container else "its disk, as a file", f"{told}, on this machine"),
        (What.FILES, "files and folders", "look inside, and take out what is wanted"),
        (What.ROLLBACK, "roll back in place", ""),
        (What.BOOT, "boot it now", ""),
    ]
    if several:
        labels.insert(2, (What.DISK, "one disk, as a file", "on this machine"))
    return [
        Option(what.value, label, note or "later", why_not_what(what, point)) for what, label, note in labels
    ]


def _hosts(container: bool) -> str:
    return "Proxmox host" if container else "host"


def meaning(what: What, point: RestorePoint | None) -> Text:
    """What the option does, or why it cannot and what does the job."""
    if (reason := why_not_what(what, point)) != "":
        text = Text.assemble((reason, "late"), end="")
        if what.later is not None:
            today = what.later.instead_for(point.archive) if point else what.later.instead
            text.append(f" {today.partition(chr(10))[0]}", "quiet")
        return text
    container = point is not None and is_container(point)
    return Text((_MEANS_CONTAINER if container else _MEANS)[what], "quiet", end="")


_MEANS = {
    What.GUEST: "A new guest with disks of its own, on the host of your choice, of either kind. "
    "The old one stays as it is, running or not.",
    What.DISKS: "Sparse raw files in a folder of this machine, to be mounted, attached or copied elsewhere.",
    What.DISK: "One sparse raw file on this machine, to be mounted, attached or copied elsewhere.",
    What.FILES: "The files on its disks, folder by folder; x there takes a file or folder out to this machine.",
}
_MEANS_CONTAINER = {
    What.GUEST: "A new container with a number and files of its own, on the Proxmox host of your choice. The old one "
    "stays as it is, running or not.",
    What.DISKS: "One tar on this machine, with owners and modes in it, for tar or pct restore.",
    What.FILES: "The container's files, folder by folder; x there takes a file or folder out to this machine.",
}
