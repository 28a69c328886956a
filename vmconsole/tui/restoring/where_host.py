"""Step 2 for a guest: which host, its name there, its storage."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Input, Static

from vmconsole.model.guest import GuestState, HostInventory, HostKind
from vmconsole.model.words import age, size
from vmconsole.tui.context import console_of
from vmconsole.tui.restoring.choice import (
    Choice,
    default_name,
    storage_argument,
    usable_storages,
    why_not_host,
    why_not_name,
)
from vmconsole.tui.restoring.where_files import safe_wrapped
from vmconsole.tui.widgets.choices import Choices, Option

_ANY = "*"
"""The option that leaves the storage to the host."""
_START = "start"


class WhereHost(VerticalScroll, can_focus=False):
    """Everything comes from what hosts were last seen with; the review asks the host itself."""

    DEFAULT_CSS: ClassVar = """
    WhereHost { height: 1fr; padding: 0 1; }
    WhereHost #hosts, WhereHost #storages { margin: 0 0 1 0; }
    WhereHost #name-verdict, WhereHost #storage-verdict, WhereHost #hints { padding: 0 2; height: auto; }
    WhereHost #name-verdict, WhereHost #storage-verdict { margin: 0 0 1 0; }
    WhereHost #hints { margin: 1 0 0 0; }
    """

    class Decided(Message):
        """Something of it changed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._choice: Choice | None = None
        self._suggested = ""

    def compose(self) -> ComposeResult:
        yield Static(id="hosts-title", markup=False)
        yield Choices(id="hosts")
        yield Static(id="name-title", markup=False)
        yield Input(id="name")
        yield Static(id="name-verdict", markup=False)
        yield Static(id="storage-title", markup=False)
        yield Choices(id="storages")
        yield Input(id="storage", placeholder="empty: the host's choice")
        yield Static(id="storage-verdict", markup=False)
        start = Choices(several=True, id="start")
        yield start
        yield Static(id="hints", markup=False)

    def on_mount(self) -> None:
        paint = console_of(self).colours.paint
        for name, title in (
            ("hosts", "On which host"),
            ("name", "Name of the new guest"),
            ("storage", "Storage for its disks"),
        ):
            self.query_one(f"#{name}-title", Static).update(paint(Text(title, "title", end="")))
        self.query_one("#start", Choices).show([Option(_START, "start it when it is whole")])

    # --- what is there ---

    @property
    def host(self) -> str:
        option = self.query_one("#hosts", Choices).current
        return option.id if option else ""

    def _inventory(self) -> HostInventory | None:
        seen = console_of(self).picture.hosts.get(self.host)
        return seen[0] if seen else None

    def _kind(self, host: str) -> HostKind:
        config = console_of(self).picture.config
        return HostKind(config.hosts[host].kind) if config else HostKind.LIBVIRT

    def show(self, choice: Choice) -> None:
        """What was chosen before stays, unless it was only our own suggestion for another point."""
        self._choice = choice
        hosts = self.query_one("#hosts", Choices)
        known = [option.id for option in hosts.options]
        configured = self._hosts(choice)
        preferred = choice.host or ("" if known else choice.point.host)
        if not known and preferred not in [option.id for option in configured if not option.why_not]:
            preferred = ""
        hosts.show(configured, preferred)
        self._suggest_name()
        self._show_storages()
        self._show_verdicts()

    def _hosts(self, choice: Choice) -> list[Option]:
        console = console_of(self)
        picture = console.picture
        options = []
        for name in picture.config.hosts if picture.config else ():
            kind = self._kind(name)
            seen = picture.hosts.get(name)
            told = [kind.value]
            if name in console.feed.unreachable:
                told.append("did not answer just now")
            elif seen is None:
                told.append("not seen yet: R asks it")
            else:
                guests = len(seen[0].guests)
                told.append(f"{guests} guest{'s' if guests != 1 else ''}, seen {age(picture.now - seen[1])}")
            if kind.value != choice.point.hypervisor:
                told.append(f"translated from {choice.point.hypervisor}")
            reason = why_not_host(kind, choice.point)
            options.append(Option(name, name, reason or " · ".join(told), reason))
        return options

    def _suggest_name(self) -> None:
        line, choice = self.query_one("#name", Input), self._choice
        if choice is None or line.value != self._suggested:
            return
        picture = console_of(self).picture
        self._suggested = default_name(choice.point, [seen[0] for seen in picture.hosts.values()])
        line.value = self._suggested
        line.cursor_position = len(line.value)

    def _show_storages(self) -> None:
        choice, inventory = self._choice, self._inventory()
        choices, line = self.query_one("#storages", Choices), self.query_one("#storage", Input)
        found = usable_storages(inventory, choice.point) if choice and inventory else []
        choices.display = bool(found)
        line.display = not found
        options = [Option(_ANY, "the host's choice", "as before, or where there is room")]
        for item in found:
            argument = storage_argument(item)
            free = f"{size(item.size - item.used)} free of {size(item.size)}" if item.size else "size unknown"
            options.append(Option(argument, argument, f"{item.type} · {free}"))
        choices.show(options)

    @property
    def storage(self) -> str:
        choices = self.query_one("#storages", Choices)
        if not choices.display:
            return self.query_one("#storage", Input).value.strip()
        option = choices.current
        return option.id if option and option.id != _ANY else ""

    @property
    def start(self) -> bool:
        return _START in self.query_one("#start", Choices).ticked

    def decided(self, choice: Choice) -> Choice:
        """The choice with what this step says."""
        name = self.query_one("#name", Input).value.strip()
        return replace(choice, host=self.host, name=name, storage=self.storage, start=self.start)

    def why_not(self) -> str:
        choice = self._choice
        if choice is None or not self.host:
            return "No host is configured: 6 shows how one is added."
        if reason := why_not_host(self._kind(self.host), choice.point):
            return reason
        return why_not_name(self.query_one("#name", Input).value.strip(), self._inventory())

    # --- what is said ---

    def on_choices_changed(self, event: Choices.Changed) -> None:
        event.stop()
        if event.choices.id == "hosts":
            self._show_storages()
        self._show_verdicts()
        self.post_message(self.Decided())

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._show_verdicts()
        self.post_message(self.Decided())

    def _show_verdicts(self) -> None:
        choice = self._choice
        if choice is None:
            return
        console = console_of(self)
        paint = console.colours.paint
        name = self.query_one("#name", Input).value.strip()
        reason = why_not_name(name, self._inventory())
        mark = (
            ("FAIL " if console.glyphs.ascii else "✗ ")
            if reason
            else ("OK " if console.glyphs.ascii else "✓ ")
        )
        known = "free there, as far as was last seen" if self._inventory() else "the review asks the host"
        verdict = Text.assemble(
            (mark, "failed" if reason else "ok"),
            safe_wrapped(reason or known, "" if reason else "quiet"),
            end="",
        )
        self.query_one("#name-verdict", Static).update(paint(verdict))
        self.query_one("#storage-verdict", Static).update(paint(self._storage_verdict(choice)))
        self.query_one("#hints", Static).update(paint(self._hints(choice)))

    def _storage_verdict(self, choice: Choice) -> Text:
        needed = choice.point.size
        inventory = self._inventory()
        chosen = next(
            (
                item
                for item in (usable_storages(inventory, choice.point) if inventory else [])
                if storage_argument(item) == self.storage
            ),
            None,
        )
        if self.query_one("#storage", Input).display:
            pool = "A pool's name or a folder of the host. " if self.host else ""
            return Text(f"{pool}At most {size(needed)} are written; zeros stay holes.", "quiet", end="")
        if chosen is not None and chosen.size and chosen.size - chosen.used < needed:
            return Text(
                f"{size(needed)} are needed at most; it fits only when much of the disks is empty.",
                "late",
                end="",
            )
        return Text(f"At most {size(needed)} are written; zeros stay holes.", "quiet", end="")

    def _hints(self, choice: Choice) -> Text:
        text = Text(end="")
        old = console_of(self).picture.guest(choice.point.uuid)
        if self.start and old is not None and old.guest.state is GuestState.RUNNING:
            text.append("! ", "warning").append_text(
                safe_wrapped(
                    f"{old.guest.name} runs on {old.guest.host} now. Inside, the new guest has the same addresses "
                    "and services: the two would be in each other's way on one network.\n"
                )
            )
        config = console_of(self).picture.config
        networks = dict(config.hosts[self.host].networks) if config and self.host else {}
        if networks:
            pairs = ", ".join(f"{old} → {new}" for old, new in networks.items())
            text.append_text(safe_wrapped(f"Networks: {pairs}; others by their names. ", "quiet"))
        else:
            text.append_text(
                safe_wrapped(
                    f"Networks: by their names; others by networks = {{ … }} under [hosts.{self.host}]. ",
                    "quiet",
                )
            )
        return text.append("The review says what cannot be carried over.", "quiet")
