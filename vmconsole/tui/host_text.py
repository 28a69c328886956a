"""A host in full, as text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from vmconsole.config.settings import Config
from vmconsole.model.guest import HostLoad, Node, Storage
from vmconsole.model.run import JournalEntry
from vmconsole.model.words import age, size, visible
from vmconsole.tui.format import safe, safe_lines
from vmconsole.tui.host_rows import LOW, Checked, Held, HostRow
from vmconsole.tui.picture import Picture
from vmconsole.tui.states import Glyphs, State

_BUSY, _FULL = 0.5, 0.8


def gauge(value: float | None, glyphs: Glyphs, width: int = 4) -> Text:
    """A bar for a load from 0 up; 1 and more are full. Coloured where a host is busy."""
    if value is None:
        return Text("–".ljust(width), "quiet", end="")
    filled = min(width, round(value * width + 0.3)) if value > 0 else 0
    full, empty = ("#", ".") if glyphs.ascii else ("█", "░")
    style = "failed" if value >= _FULL else "late" if value >= _BUSY else "ok"
    return Text.assemble((full * filled, style), (empty * (width - filled), "quiet"), end="")


def loads(load: HostLoad, glyphs: Glyphs) -> Text:
    """cpu, io and memory, with figures."""
    text = Text(end="")
    for name, value in (("cpu", load.cpu), ("io", load.io), ("memory", load.memory)):
        text.append(f"{name} ", "quiet").append_text(gauge(value, glyphs))
        text.append("      " if value is None else f" {value:4.0%} ")
    return text


def why_text(row: HostRow, glyphs: Glyphs) -> Text:
    """State, reason, remedy."""
    text = Text.assemble(glyphs.label(row.state, row.word), end="")
    if row.why:
        text.append(": ").append_text(safe_lines(row.why))
    if row.fix:
        text.append(" → ", "key").append_text(safe_lines(row.fix, "key"))
    return text.append("\n")


def host_detail(row: HostRow, picture: Picture, glyphs: Glyphs) -> Text:
    text = why_text(row, glyphs)
    _line(text, "address", safe(row.address))
    text.append_text(checks_text(row.checked, picture, glyphs))
    inventory = row.inventory
    if inventory is not None:
        _line(text, "guests", _guests(row))
        if not inventory.nodes:
            _line(text, "last load" if row.failure else "load", loads(inventory.load, glyphs))
        for number, node in enumerate(inventory.nodes):
            _line(text, "" if number else "nodes", _node(node, glyphs))
        for number, storage in enumerate(inventory.storages):
            _line(text, "" if number else "storages", _storage(storage))
        for warning in inventory.warnings:
            text.append("! ", "warning").append_text(safe_lines(warning)).append("\n")
    for number, entry in enumerate(row.leftovers):
        left = f"{entry.kind} {entry.payload.get('name', '')}".strip()
        _line(text, "" if number else "leftovers", safe(f"{left}, of run {entry.run}", "late"))
    if row.leftovers:
        _line(text, "", Text("x, or: vmconsole doctor --clean", "key", end=""))
    if picture.config is not None:
        text.append_text(headroom_text(row, picture.config, picture))
    return text


def checks_text(checked: Checked | None, picture: Picture, glyphs: Glyphs) -> Text:
    """Each failing check with its remedy."""
    text = Text(end="")
    if checked is None:
        _line(text, "checks", safe("not checked from here yet; c checks", "quiet"))
        return text
    when = age(picture.now - checked.when)
    if checked.error:
        _line(text, "checks", safe(f"could not be made, {when}: {checked.error}", "failed"))
        if checked.hint:
            _line(text, "", Text.assemble(("→ ", "key"), safe_lines(checked.hint), end=""))
        return text
    well = sum(check.ok for check in checked.checks)
    style = "failed" if checked.stops else "warning" if checked.failing else "ok"
    _line(text, "checks", safe(f"{well} of {len(checked.checks)} well, {when}", style))
    for check in checked.failing:
        state = State.WARNING if check.warning else State.FAILED
        _line(text, "", Text.assemble(
            glyphs.label(state, visible(check.name)), " " if check.detail else "", safe_lines(check.detail), end=""
        ))  # fmt: skip
        if check.remedy:
            _line(text, "", Text.assemble(("  → ", "key"), safe_lines(check.remedy, "strong"), end=""))
    return text


def headroom_text(row: HostRow, config: Config, picture: Picture) -> Text:
    """What backups may ask of the host, and when they last slowed down for it."""
    limits = config.host_limits(row.name)
    parts = [f"{limits.parallel} guest{'s' if limits.parallel != 1 else ''} at a time"]
    if limits.rate:
        parts.append(f"at most {size(limits.rate)}/s")
    parts += [
        f"{size(rate.rate)}/s {rate.window.start:%H:%M}–{rate.window.end:%H:%M}" for rate in limits.rates
    ]
    parts.append("slows down while it suffers" if config.headroom(row.name) else "headroom is off")
    text = Text(end="")
    _line(text, "limits", safe(" · ".join(parts)))
    for number, item in enumerate(row.held[:3]):
        _line(text, "" if number else "slowed", _held(item, picture))
    return text


def _held(item: Held, picture: Picture) -> Text:
    rate = f"to {size(item.rate)}/s" if item.rate else "no more"
    when = item.when.astimezone(picture.zone)
    return safe(f"{when:%d %b %H:%M} {item.host} {rate}: {item.reason}", "quiet")


def _guests(row: HostRow) -> Text:
    guests = row.inventory.guests if row.inventory else ()
    text = Text(f"{len(guests)}", end="")
    if row.unprotected:
        text.append(f", {row.unprotected} in no group", "late")
    return text


def _node(node: Node, glyphs: Glyphs) -> Text:
    text = Text.assemble(
        glyphs.label(State.OK if node.online else State.FAILED, "up  " if node.online else "down")
    )
    text.append(" ").append_text(safe(f"{node.name:<8} ", "strong"))
    if node.online:
        text.append_text(loads(node.load, glyphs))
    return text.append_text(safe(f" {node.version}", "quiet"))


def _storage(storage: Storage) -> Text:
    where = f"{storage.name} on {storage.node}" if storage.node else storage.name
    text = safe(f"{where:<18} {storage.type:<9} ")
    if not storage.available:
        return text.append("not there", "failed")
    if not storage.size:
        return text.append("size unknown", "quiet")
    share = storage.used / storage.size
    style = "late" if share >= LOW else ""
    return text.append(
        f"{size(storage.size - storage.used)} free of {size(storage.size)} ({share:.0%} used)", style
    )


def leftovers_text(entries: Sequence[JournalEntry]) -> Text:
    """One line each, for the question before they are removed."""
    text = Text(end="")
    for entry in entries:
        name = entry.payload.get("name", "")
        about = f" of {name}" if name else ""
        text.append_text(safe(f"  {entry.host}: {entry.kind}{about}, run {entry.run}")).append("\n")
    return text


def _line(text: Text, title: str, value: Text) -> None:
    text.append(f"{title:<12}", "quiet").append_text(value).append("\n")
