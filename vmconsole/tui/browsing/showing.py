"""How what is inside a restore point is shown: as rows, beside them, and as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, tzinfo

from rich.text import Text

from vmconsole.model.point import RestorePoint
from vmconsole.model.words import size
from vmconsole.tui.browsing.reading import MAX_SHOWN
from vmconsole.tui.browsing.tree import FILES, VOLUMES, Entry, Kind, Tree, mode_text, place_of, readable
from vmconsole.tui.format import safe, safe_lines
from vmconsole.tui.widgets.listing import Column

_NAMED = 40
"""Entries of a folder that are named beside it."""


def columns(narrow: Callable[[], bool], zone: Callable[[], tzinfo]) -> list[Column[Entry]]:
    """narrow: whether there is no room for a preview, which says what an entry is."""
    return [
        Column("name", 24, lambda entry: _name(entry, narrow=narrow()), grow=True, sort=lambda entry: entry.order),
        Column("size", 9, _size, right=True, sort=lambda entry: entry.size),
        Column(
            "changed", 16, lambda entry: _changed(entry, zone()), wide=True, drop=2,
            sort=lambda entry: entry.changed or 0.0,
        ),
        Column("mode", 9, lambda entry: safe(mode_text(entry.member), "quiet"), wide=True, drop=3),
        Column("owner", 9, _owner, wide=True, drop=4),
    ]  # fmt: skip


def preview(entry: Entry, tree: Tree) -> Text:
    """What an entry is, and its text or what is in it."""
    text = Text.assemble(safe(entry.name, "title"), "\n", end="")
    if entry.note:
        text.append(f"{safe(entry.note).plain}\n", "quiet")
    text.append("\n")
    if entry.kind is Kind.TEXT:
        return text.append_text(content_text(entry, tree.texts.get(entry.path, b"")))
    if entry.kind is Kind.FOLDER:
        if entry.path in tree.unread:
            return text.append(
                "enter looks inside, x takes it out\n" if can_get(entry) else "enter looks inside\n"
            )
        inside = tree.inside(entry.path)
        return text.append(f"{len(inside)} inside\n", "quiet").append_text(
            Text("\n".join(safe(item.name).plain for item in inside[:_NAMED]), end="")
        )
    if entry.kind is Kind.DISK:
        return text.append("r restores it whole. The files on it are in the folders files and volumes.\n")
    if entry.kind is Kind.TAR:
        return text.append("The container's files are in the folder files, one by one.\n")
    text.append(f"{size(entry.size)}  {mode_text(entry.member)}  {_owner(entry).plain}\n")
    if entry.kind is Kind.FILE:
        text.append("enter shows its text, " if entry.size <= MAX_SHOWN else "", "key")
    return text.append("x takes it out\n", "key")


def content_text(entry: Entry, content: bytes) -> Text:
    """A file's text, harmless; what is no text is told so."""
    text = readable(content)
    if text is None:
        return Text(f"{size(len(content))}, not text.", "quiet", end="")
    if entry.name.endswith(".json"):
        with suppress(ValueError):
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return safe_lines(text.replace("\r\n", "\n").replace("\t", "    "))


def get_command(point: RestorePoint, repository: str, entry: Entry) -> tuple[str, ...]:
    """What takes a guest's file or folder out, but for `--to`."""
    volume, path = place_of(entry.path) or ("", "/")
    path = path.removeprefix("/")
    # A name that looks like an option would be taken for one.
    path = f"./{path}" if path.startswith("-") else path or "/"
    return ("get", f"{point.archive}:{volume}" if volume else point.archive, path, "--repository", repository)


def can_get(entry: Entry) -> bool:
    """Whether it is something of the guest's, and not all of it."""
    place = place_of(entry.path)
    return place is not None and place[1] != "/"


def why_not_get(entry: Entry) -> str:
    """Why an entry is not taken out, as a sentence; empty when it can be."""
    if can_get(entry):
        return ""
    if entry.path.partition("/")[0] == VOLUMES:
        return "All of a volume at once is the disk: r restores it."
    if entry.kind is Kind.DISK or entry.path == "disks":
        return "Disks are restored whole: r."
    if entry.path == FILES or entry.kind is Kind.TAR or entry.path == "container":
        return "All files at once are the tar, or the disks: r restores them."
    return "This is shown, not taken out: enter, or borg extract."


def why_not_open(entry: Entry) -> str:
    if entry.kind is Kind.FILE and entry.member.get("sparse"):
        return "A sparse file is not shown here: x takes it out."
    if entry.kind is Kind.FILE and entry.size > MAX_SHOWN:
        return f"Files of more than {size(MAX_SHOWN)} are not shown: x takes it out."
    if entry.kind in (Kind.LINK, Kind.OTHER):
        return "This is not a file with a text of its own."
    return ""


def _name(entry: Entry, *, narrow: bool) -> Text:
    folder = entry.kind is Kind.FOLDER
    text = safe(entry.name + ("/" if folder else ""), "key" if folder else "")
    if entry.kind is Kind.LINK:
        text.append(f" {safe(entry.note).plain}", "quiet")
    elif entry.note and not entry.member and narrow:
        text.append(f"  {safe(entry.note).plain}", "quiet")
    return text


def _changed(entry: Entry, zone: tzinfo) -> Text:
    if entry.changed is None:
        return Text("", end="")
    try:
        moment = datetime.fromtimestamp(entry.changed, UTC).astimezone(zone)
    except (ValueError, OverflowError, OSError):
        return safe("?", "quiet")
    return safe(f"{moment:%Y-%m-%d %H:%M}", "quiet")


def _size(entry: Entry) -> Text:
    return safe("" if entry.kind is Kind.FOLDER else size(entry.size))


def _owner(entry: Entry) -> Text:
    if not entry.member:
        return Text("", end="")
    return safe(f"{entry.member.get('uid', 0)}:{entry.member.get('gid', 0)}", "quiet")
