"""The coming night: which host does how much when, what waits, what does not fit."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static

from vmconsole.errors import VmconsoleError
from vmconsole.front.fleet import ConfiguredFleet, capacity_of
from vmconsole.front.services import Services
from vmconsole.model.words import duration, size
from vmconsole.schedule.jobs import HOST, Job, Resource
from vmconsole.schedule.outlook import Outlook, look_ahead
from vmconsole.schedule.sizing import host_of
from vmconsole.tui.context import console_of
from vmconsole.tui.format import safe
from vmconsole.tui.keymap import bindings
from vmconsole.tui.picture import Picture
from vmconsole.tui.states import State
from vmconsole.tui.timeline import LABEL, draw, lanes
from vmconsole.tui.widgets.bars import KeyBar
from vmconsole.tui.widgets.listing import Column, Listing
from vmconsole.tui.widgets.pane import Pane

AHEAD = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Entry:
    """A job, and when it runs; start None when it does not. why: what it waited for, or why it does not fit."""

    job: Job
    group: str
    start: datetime | None = None
    end: datetime | None = None
    why: str = ""
    late: bool = False

    @property
    def state(self) -> State:
        if self.start is None:
            return State.FAILED
        return State.LATE if self.late else State.QUEUED if self.why else State.OK


class Timeline(Screen[None]):
    """The next 24 hours, as the scheduler would do them."""

    CONTEXTS: ClassVar = ("all", "list")
    BINDINGS: ClassVar = bindings("list")
    AUTO_FOCUS = "Listing"
    CSS = """
    Timeline #lanes { height: auto; max-height: 45%; min-height: 3; }
    Timeline #top { height: 1; padding: 0 1; background: $surface; }
    Timeline #legend { height: 1; padding: 0 1; }
    """

    class Computed(Message):
        def __init__(self, outlook: Outlook | None, problem: str) -> None:
            super().__init__()
            self.outlook, self.problem = outlook, problem

    def __init__(self) -> None:
        super().__init__()
        self._outlook: Outlook | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="top", markup=False)
        yield Pane(id="lanes")
        yield Static(id="legend", markup=False)
        columns: list[Column[Entry]] = [
            Column("start", 9, self._start, sort=lambda entry: entry.start.timestamp() if entry.start else 0.0),
            Column("takes", 9, lambda entry: safe(duration(entry.job.seconds)), right=True,
                   sort=lambda entry: entry.job.seconds),
            Column("guest", 16, lambda entry: safe(entry.job.guest, "strong"), grow=True,
                   sort=lambda entry: entry.job.guest),
            Column("host", 10, lambda entry: safe(entry.job.host, "quiet"), drop=2, sort=lambda entry: entry.job.host),
            Column("group", 10, lambda entry: safe(entry.group, "quiet"), drop=3, sort=lambda entry: entry.group),
            Column("to read", 9, lambda entry: safe(size(entry.job.bytes)), right=True, drop=1,
                   sort=lambda entry: entry.job.bytes),
            Column("why not sooner", 24, _why, grow=True, drop=4),
        ]  # fmt: skip
        yield Listing(
            columns,
            lambda entry: entry.job.key,
            lambda entry: {
                "guest": entry.job.guest,
                "host": entry.job.host,
                "group": entry.group,
                "why": entry.why,
            },
            lambda entry: entry.state is not State.OK,
            empty="Nothing is scheduled in the next 24 hours.",
        )
        yield KeyBar()

    def on_mount(self) -> None:
        self._show_heading("The coming night: working it out …")
        console = console_of(self)
        services, picture = console.services, console.picture

        def compute() -> None:
            try:
                self.post_message(self.Computed(outlook_of(services, picture), ""))
            except VmconsoleError as error:
                self.post_message(self.Computed(None, error.message))

        threading.Thread(target=compute, name="timeline", daemon=True).start()

    def on_timeline_computed(self, message: Computed) -> None:
        if message.outlook is None:
            self._show_heading(message.problem)
            return
        self._outlook = message.outlook
        self.query_one(Listing).show(entries_of(message.outlook))
        self._draw()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        outlook = self._outlook
        if outlook is None or outlook.end is None:
            return
        console = console_of(self)
        zone = console.picture.zone
        start, end = outlook.start.astimezone(zone), outlook.end.astimezone(zone)
        per_hour = max(1, (self.size.width - LABEL - 4) // 24)
        limits = _limits(console.picture)
        found = lanes(outlook.forecast, sorted(limits), limits, start, end, per_hour * 24)
        lines = draw(found, start, end, ascii_only=console.glyphs.ascii)
        self.query_one("#lanes", Pane).show(Text("\n", end="").join(lines))
        forecast = outlook.forecast
        total = sum(planned.job.bytes for planned in forecast.planned)
        heading = f"The coming night · {len(forecast.planned)} backups, about {size(total)} to read"
        if forecast.end is not None:
            heading += f", done at {forecast.end.astimezone(zone):%H:%M}"
        heading += f" · at most {forecast.total.used} at a time"
        if forecast.left:
            heading += f" · {len(forecast.left)} do not fit"
        self._show_heading(heading)
        legend = Text("height: guests at a time, of those that may be · ", "quiet", end="")
        legend.append("amber", "late").append(
            ": others wait · the planner never goes beyond a limit", "quiet"
        )
        self.query_one("#legend", Static).update(console.colours.paint(legend))

    def _show_heading(self, text: str) -> None:
        self.query_one("#top", Static).update(console_of(self).colours.paint(safe(text, "title")))

    def _start(self, entry: Entry) -> Text:
        glyphs = console_of(self).glyphs
        if entry.start is None:
            return Text.assemble(glyphs.label(State.FAILED, "no time"), end="")
        local = entry.start.astimezone(console_of(self).picture.zone)
        return Text(f"{local:%a %H:%M}", entry.state.value if entry.late else "", end="")

    def action_problems(self) -> None:
        self.query_one(Listing).toggle_problems()

    def action_sort(self) -> None:
        self.query_one(Listing).next_sort()

    def action_sort_reverse(self) -> None:
        self.query_one(Listing).reverse_sort()

    def why_not(self, action: str) -> str:
        if action in ("filter", "open", "mark", "mark-shown", "wide", "freeze", "log"):
            return "This is a forecast: sort it with s, see what waits with !."
        return ""


def outlook_of(services: Services, picture: Picture) -> Outlook:
    """The next 24 hours. Blocks for as long as the history takes to read; asks no host. Raises VmconsoleError."""
    config = services.config
    fleet = ConfiguredFleet(services)
    seen = [inventory for inventory, _ in picture.hosts.values()]
    return look_ahead(
        config.groups(),
        [row.guest for row in picture.guests],
        picture.now,
        picture.now + AHEAD,
        config.timezone,
        capacity_of(config, seen),
        fleet.target,
        lambda uuid: services.history.of_guest(uuid, 20),
    )


def entries_of(outlook: Outlook) -> list[Entry]:
    """What does not fit first, then in the order of time."""
    left = [Entry(item.job, outlook.groups[item.job.key], why=item.why) for item in outlook.forecast.left]
    planned = [
        Entry(item.job, outlook.groups[item.job.key], item.start, item.end, item.why, item.late)
        for item in outlook.forecast.planned
    ]
    return left + planned


def _limits(picture: Picture) -> dict[str, int]:
    """How many guests at a time, of each host or node that has some."""
    if picture.config is None:
        return {}
    capacity = capacity_of(picture.config, [inventory for inventory, _ in picture.hosts.values()])
    hosts = {host_of(row.guest) for row in picture.guests}
    return {host: capacity.of(Resource(HOST, host)) for host in hosts}


def _why(entry: Entry) -> Text:
    if entry.start is None:
        return safe(f"not before its window closes: {entry.why}", "failed")
    if entry.late:
        return safe("it may not be done when its window closes", "late")
    return safe(entry.why, "quiet")
