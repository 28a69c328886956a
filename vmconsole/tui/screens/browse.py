"""Browse: what a restore point holds, folder by folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Input, Static

from vmconsole.errors import VmconsoleError
from vmconsole.model.point import RestorePoint
from vmconsole.model.words import size
from vmconsole.runs.takeout import tar_of
from vmconsole.tui.browsing.answers import Content, Disks, Failed, Listed, Ready
from vmconsole.tui.browsing.reading import MAX_SHOWN, Opened, newest_point, open_disks, open_point, read_file
from vmconsole.tui.browsing.session import Session
from vmconsole.tui.browsing.showing import (
    can_get,
    columns,
    content_text,
    get_command,
    preview,
    why_not_get,
    why_not_open,
)
from vmconsole.tui.browsing.taking import TakeOut
from vmconsole.tui.browsing.tree import FILES, VOLUMES, Entry, Kind, Tree, add_entries, place_of
from vmconsole.tui.commands import Command, Ended
from vmconsole.tui.context import console_of
from vmconsole.tui.format import safe, safe_lines
from vmconsole.tui.keymap import bindings
from vmconsole.tui.restoring.choice import What, default_place
from vmconsole.tui.restoring.place import absolute
from vmconsole.tui.widgets.bars import KeyBar
from vmconsole.tui.widgets.listing import Listing
from vmconsole.tui.widgets.pane import Pane

if TYPE_CHECKING:
    from vmconsole.tui.app import Console


def open_browse(console: Console, point: RestorePoint, repository: str) -> None:
    console.push_screen(BrowseScreen(point, point.uuid, repository))


def browse_newest(console: Console, guest: str, repository: str) -> None:
    """guest: its uuid; the newest restore point of it is opened."""
    console.push_screen(BrowseScreen(None, guest, repository))


class BrowseScreen(Screen[None]):
    """folder: the path that is shown; empty at the top."""

    CONTEXTS: ClassVar = ("all", "browse")
    BINDINGS: ClassVar = bindings("browse")
    AUTO_FOCUS = "Listing"
    CSS = """
    BrowseScreen #inside { height: 1fr; }
    BrowseScreen #path { height: 1; padding: 0 1; background: $panel; }
    BrowseScreen #preview { width: 1fr; }
    BrowseScreen Listing { width: 1fr; }
    BrowseScreen.-narrow #preview { display: none; }
    BrowseScreen.-split #preview, BrowseScreen.-wide #preview {
        border: round $border-blurred; border-title-color: $foreground;
    }
    BrowseScreen.-wide Listing { width: 90; }
    BrowseScreen #said { height: auto; max-height: 5; padding: 0 1; background: $surface; }
    """

    def __init__(self, point: RestorePoint | None, guest: str, repository: str) -> None:
        super().__init__()
        self._point, self._guest, self._repository = point, guest, repository
        self._tree: Tree | None = None
        self._session: Session | None = None
        self._busy = False
        self.folder = ""

    def compose(self) -> ComposeResult:
        yield Static(id="path", markup=False)
        with Horizontal(id="inside"):
            yield Listing(
                columns(lambda: self.has_class("-narrow"), lambda: console_of(self).picture.zone),
                lambda entry: entry.path,
                lambda entry: {"name": entry.name, "size": entry.size, "kind": entry.kind.value},
                empty="",
            )
            yield Pane(id="preview")
        yield Static(id="said", markup=False)
        yield Input(placeholder="filter", id="filter")
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        self._read()

    # --- reading ---

    def _in_thread(self, work: Callable[[], Message]) -> None:
        """A daemon: a repository far away holds up neither the screen nor the end."""

        def run() -> None:
            try:
                self.post_message(work())
            except VmconsoleError as error:
                self.post_message(Failed(error))

        self._busy = True
        self._show(self._entry.path if self._entry else "")
        threading.Thread(target=run, name="browse", daemon=True).start()

    def _read(self) -> None:
        services = console_of(self).services

        def work() -> Message:
            point = self._point or newest_point(services, self._guest, self._repository)
            return Ready(open_point(services, point, self._repository))

        self._say(Text(f"Reading repository {self._repository} …", "running", end=""))
        self._in_thread(work)

    def on_browse_ready(self, message: Ready) -> None:
        opened = message.opened
        self._busy, self._tree, self._point = False, opened.tree, opened.point
        listing = self.query_one(Listing)
        listing.empty = "This folder is empty."
        self._say(safe_lines(opened.doubt, "quiet"))
        if tar_of(opened.point) is None:
            self._open_disks(opened)
        self._show()

    def _open_disks(self, opened: Opened) -> None:
        """Find out what a virtual machine's disks hold, while its configuration is shown already."""
        session = Session(console_of(self).services, opened.point, self._repository)
        self._close_session()
        self._session = session
        # The tree is the screen's: what is found is added to a copy that nobody shows yet.
        tree = replace(
            opened.tree, folders={path: dict(inside) for path, inside in opened.tree.folders.items()}
        )

        def work() -> Message:
            doubt = open_disks(session, tree)
            return Disks(tree, doubt)

        self._say(Text("Looking for file systems on its disks …", "running", end=""))
        self._in_thread(work)

    def on_browse_disks(self, message: Disks) -> None:
        self._busy, self._tree = False, message.tree
        self._say(safe_lines(message.doubt, "late"))
        self._show(self._entry.path if self._entry else "")

    def on_unmount(self) -> None:
        self._close_session()

    def _close_session(self) -> None:
        """In a thread: it may be in the middle of a question to a repository far away."""
        session, self._session = self._session, None
        if session is not None:
            threading.Thread(target=session.close, name="browse", daemon=True).start()

    def on_browse_failed(self, message: Failed) -> None:
        self._busy = False
        error = message.error
        text = Text.assemble(("✗ ", "failed"), safe_lines(error.message), end="")
        if error.hint:
            text.append("\n→ ", "key").append_text(safe_lines(error.hint))
        self._say(text.append("\nc reads again, esc goes back.", "quiet"))
        self._show(self._entry.path if self._entry else "")

    def _say(self, text: Text) -> None:
        line = self.query_one("#said", Static)
        line.display = bool(text.plain)
        line.update(console_of(self).colours.paint(text))

    # --- showing ---

    def _show(self, at: str = "") -> None:
        listing = self.query_one(Listing)
        # What only the guest's files have.
        listing.wide = self.folder.partition("/")[0] in (FILES, VOLUMES)
        listing.show(self._tree.inside(self.folder) if self._tree else [])
        if not at or not listing.move_to(at):
            listing.action_edge(-1)
        self._show_heading()
        self.show_row()

    def _show_heading(self) -> None:
        console = console_of(self)
        row, point = console.picture.guest(self._guest), self._point
        name = point.guest if point else row.guest.name if row else ""
        text = Text.assemble("Inside ", safe(name, "title"), end="")
        if point is not None:
            text.append(f"  {point.time.astimezone(console.picture.zone):%Y-%m-%d %H:%M}", "quiet")
        text.append("   /", "quiet").append_text(safe(self.folder.replace("/", " / "), "key"))
        self.query_one("#path", Static).update(console.colours.paint(text))

    def show_row(self) -> None:
        pane, entry = self.query_one("#preview", Pane), self._entry
        if pane.display:
            pane.show(self._preview(entry) if entry else Text(end=""))
            pane.scroll_home(animate=False)
        self.query_one(KeyBar).refresh()

    def _preview(self, entry: Entry) -> Text:
        return preview(entry, self._tree or Tree())

    @property
    def _entry(self) -> Entry | None:
        return self.query_one(Listing).current

    # --- actions ---

    def action_browse_open(self) -> None:
        entry = self._entry
        if entry is None:
            return
        if entry.kind is Kind.FOLDER:
            self._clear_filter()
            if self._tree is not None and entry.path in self._tree.unread:
                self._read_folder(entry.path)
                return
            self.folder = entry.path
            self._show()
        elif entry.kind is Kind.FILE:
            self._open_file(entry)
        else:
            self._open_detail(entry, self._preview(entry))

    def _read_folder(self, folder: str) -> None:
        session, place = self._session, place_of(folder)
        if session is None or place is None:
            return
        self._say(safe(f"Reading {folder.rpartition('/')[2]} …", "running"))
        self._in_thread(lambda: Listed(folder, session.entries(*place)))

    def on_browse_listed(self, message: Listed) -> None:
        self._busy = False
        self._say(Text("", end=""))
        if self._tree is not None:
            add_entries(self._tree, message.folder, message.entries)
            self.folder = message.folder
        self._show()

    def _open_file(self, entry: Entry) -> None:
        point, repository, services = self._point, self._repository, console_of(self).services
        session, place = self._session, place_of(entry.path)
        if point is None:
            return

        def work() -> Message:
            if session is not None and place is not None:
                return Content(entry, session.content(*place, min(entry.size, MAX_SHOWN)))
            return Content(entry, read_file(services, point, repository, entry))

        self._say(safe(f"Reading {entry.name} …", "running"))
        self._in_thread(work)

    def on_browse_content(self, message: Content) -> None:
        self._busy = False
        self._say(Text("", end=""))
        if console_of(self).screen is self:
            self._open_detail(message.entry, content_text(message.entry, message.content))

    def _open_detail(self, entry: Entry, text: Text) -> None:
        from vmconsole.tui.screens.detail import DetailScreen

        console_of(self).push_screen(DetailScreen(safe(entry.path, "title"), text))

    def action_browse_up(self) -> None:
        left = self.folder
        self._clear_filter()
        self.folder = left.rpartition("/")[0]
        self._show(left)

    def action_browse_restore(self) -> None:
        from vmconsole.tui.screens.restore import open_restore

        open_restore(console_of(self), self._point, self._repository, self._guest)

    def action_browse_get(self) -> None:
        entry, point = self._entry, self._point
        if entry is None or point is None or not can_get(entry):
            return
        console = console_of(self)
        words = get_command(point, self._repository, entry)
        told = "with all that is in it" if entry.kind is Kind.FOLDER else size(entry.size)
        folder = default_place(point, What.DISKS, (), Path.home(), console.picture.zone)

        def begun(ended: Ended) -> None:
            if ended.ok:
                console.notify(f"Taking out has begun: run {ended.run}. 3 shows it.", markup=False)

        def start(to: str) -> None:
            go = (*words, "--to", absolute(to))
            # What is in the way is better said before a run begins.
            console.carry_out(
                Command((*go, "--dry-run")),
                lambda ended: console.carry_out(Command(go, runs=True), begun) if ended.ok else None,
            )

        console.push_screen(
            TakeOut("/".join(filter(None, place_of(entry.path) or ())), told, folder),
            lambda to: start(to) if to else None,
        )

    def action_browse_again(self) -> None:
        self._read()

    def action_browse_filter(self) -> None:
        line = self.query_one("#filter", Input)
        line.display = True
        line.focus()

    def action_browse_sort(self) -> None:
        self.query_one(Listing).next_sort()

    def why_not(self, action: str) -> str:
        entry = self._entry
        if action in ("browse.open", "browse.sort", "browse.filter") and self._busy:
            return "It is still being read."
        if action == "browse.again":
            return "It is still being read." if self._busy else ""
        if action == "browse.up" and not self.folder:
            return "This is the top: esc leaves."
        if action == "browse.get":
            return self._why_not_get(entry)
        if action == "browse.open":
            if entry is None:
                return "There is nothing to open."
            return why_not_open(entry)
        return ""

    def _why_not_get(self, entry: Entry | None) -> str:
        if entry is None:
            return "It is still being read." if self._busy else "There is nothing to take out."
        return why_not_get(entry)

    def step_back(self) -> bool:
        """The filter, then one folder up; False at the top."""
        if self.query_one("#filter").display:
            self._clear_filter()
            return True
        if self.folder:
            self.action_browse_up()
            return True
        return False

    def _clear_filter(self) -> None:
        line = self.query_one("#filter", Input)
        if line.display:
            line.value = ""
            line.display = False
            self.query_one(Listing).set_filter("")
            self.query_one(Listing).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self.query_one(Listing).set_filter(event.value)

    def on_input_submitted(self) -> None:
        self.query_one(Listing).focus()

    def on_listing_moved(self) -> None:
        self.show_row()

    def on_listing_opened(self) -> None:
        if not self.why_not("browse.open"):
            self.action_browse_open()

    def on_resize(self) -> None:
        self.call_after_refresh(self.show_row)

    @property
    def name_to_copy(self) -> str:
        return self._entry.path if self._entry else self._point.archive if self._point else ""

    @property
    def command_to_copy(self) -> Sequence[str]:
        entry, point = self._entry, self._point
        if point is None:
            return ()
        if entry is not None and can_get(entry):
            return (*get_command(point, self._repository, entry), "--to", "FOLDER/")
        return ("restore", point.archive, "--to", "FOLDER/")
