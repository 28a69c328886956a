"""What Browse's threads found, told to its screen."""

from __future__ import annotations

from collections.abc import Sequence

from textual.message import Message

from vmconsole.errors import VmconsoleError
from vmconsole.model.files import FileEntry
from vmconsole.tui.browsing.reading import Opened
from vmconsole.tui.browsing.tree import Entry, Tree


class Ready(Message, namespace="browse"):
    def __init__(self, opened: Opened) -> None:
        super().__init__()
        self.opened = opened


class Failed(Message, namespace="browse"):
    def __init__(self, error: VmconsoleError) -> None:
        super().__init__()
        self.error = error


class Disks(Message, namespace="browse"):
    """tree: with what the disks hold. doubt: what is wrong with them; empty when nothing is."""

    def __init__(self, tree: Tree, doubt: str) -> None:
        super().__init__()
        self.tree, self.doubt = tree, doubt


class Listed(Message, namespace="browse"):
    """entries: of a virtual machine's folder."""

    def __init__(self, folder: str, entries: Sequence[FileEntry]) -> None:
        super().__init__()
        self.folder, self.entries = folder, entries


class Content(Message, namespace="browse"):
    def __init__(self, entry: Entry, content: bytes) -> None:
        super().__init__()
        self.entry, self.content = entry, content
