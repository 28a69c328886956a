"""All about one repository."""

from __future__ import annotations

import shlex

from rich.text import Text

from vmconsole.model.run import Run, RunState
from vmconsole.model.words import age, duration, size
from vmconsole.tui.format import safe, safe_lines
from vmconsole.tui.picture import Picture
from vmconsole.tui.plot import daily_bars, growth_plot
from vmconsole.tui.repositories import RepositoryRow, days_left, pace, passphrase_source
from vmconsole.tui.states import Glyphs

_NAMED = 5
_ID_WIDTH = 32
"""Characters of an id in one line: half of it."""


def why_text(row: RepositoryRow, glyphs: Glyphs) -> Text:
    text = Text.assemble(glyphs.label(row.state, row.word), end="")
    if row.why:
        text.append(": ").append_text(safe_lines(row.why))
    if row.fix:
        text.append(" ").append_text(safe_lines(f"{row.fix.rstrip('.')}.", "key"))
    return text.append("\n")


def repository_text(row: RepositoryRow, picture: Picture, glyphs: Glyphs, width: int, height: int) -> Text:
    """width: of the pane. height: of the curve, in lines."""
    known, info = row.known, row.info
    text = why_text(row, glyphs)
    for gone in known.vanished[:_NAMED]:
        text.append("  gone      ", "failed").append_text(
            safe(f"{gone.guest} of {gone.time.astimezone(picture.zone):%Y-%m-%d %H:%M}  {gone.archive}")
        ).append("\n")
    if len(known.vanished) > _NAMED:
        text.append(f"            and {len(known.vanished) - _NAMED} more\n", "quiet")
    pruned = f", {known.pruned} pruned" if known.pruned else ""
    pinned = f", {known.pinned} pinned" if known.pinned else ""
    _line(text, "points", f"{known.points} of {known.guests} guests{pinned}{pruned}")
    factor = f", {row.factor:.0f} : 1" if row.factor else ""
    unsure = "" if info else " as far as remembered"
    _line(text, "stored", f"{size(row.stored)} for {size(row.original)} of guests{factor}{unsure}")
    if known.space is not None and known.space.size:
        left = days_left(known)
        lasts = f"; at this pace it lasts {_long(left)}" if left is not None else ""
        free = f"{size(known.space.free)} of {size(known.space.size)}"
        _line(text, "free", f"{free} ({known.space.used_percent:.0f} % used){lasts}")
    _line(text, "last check", run_text(known.check, picture))
    if row.asking is not None:
        _line(
            text,
            "asked",
            f"since {duration((picture.now - row.asking).total_seconds())}; it has not answered yet",
        )
    elif row.answer is not None:
        _line(text, "asked", age(picture.now - row.answer.when))
    _curve(text, row, glyphs, width, height)
    return text


def _curve(text: Text, row: RepositoryRow, glyphs: Glyphs, width: int, height: int) -> None:
    added = row.known.added
    total = sum(count for _, count in added)
    if len(added) < 2 or not total:
        return
    drawn = growth_plot(added, width, height, ascii_only=glyphs.ascii)
    if not drawn.plain:
        return
    text.append(f"\nAdded in the last {len(added)} days: {size(total)}, ", "title")
    text.append(f"{size(round(pace(added)))} a day\n", "title").append_text(drawn)
    text.append("each day".rjust(9), "quiet").append(" ")
    text.append_text(daily_bars(added, width - 10, ascii_only=glyphs.ascii))


def _long(days: float) -> str:
    if days < 60:
        return f"{days:.0f} days"
    return f"{days / 30.44:.0f} months" if days < 730 else f"{min(days / 365.25, 99):.0f} years"


def run_text(run: Run | None, picture: Picture) -> str:
    if run is None:
        return "never, as far as is remembered; v checks it"
    when = f"{run.started.astimezone(picture.zone):%Y-%m-%d %H:%M}, {age(picture.now - run.started)}"
    if run.state is RunState.RUNNING:
        return f"running since {when}"
    took = f" in {duration((run.ended - run.started).total_seconds())}" if run.ended else ""
    result = {RunState.DONE: "no problems", RunState.FAILED: run.error}.get(run.state, run.state.value)
    return f"{when}: {result}{took}"


def recovery_text(row: RepositoryRow, picture: Picture) -> Text:
    """How to get at everything with stock Borg alone."""
    settings = row.settings
    target = shlex.quote(settings.location)
    text = Text(end="")
    _line(text, "where", settings.location)
    known = row.info.id if row.info else "not asked yet"
    for start in range(0, len(known), _ID_WIDTH):
        _line(text, "" if start else "id", known[start : start + _ID_WIDTH])
    _line(text, "encryption", row.info.encryption if row.info else settings.encryption)
    _line(text, "passphrase", passphrase_source(settings))
    _line(text, "undo", f"{duration(settings.undo)} after a prune")
    _line(text, "compact", settings.compact or "never by itself")
    if row.info and row.info.last_modified:
        _line(text, "changed", age(picture.now - row.info.last_modified))
    text.append("\nWithout vmconsole\n", "title")
    text.append("Stock Borg reads it: every disk is a raw image.\n", "quiet")
    for command in (
        f"borg list {target}",
        f"borg list {target}::ARCHIVE",
        f"borg extract {target}::ARCHIVE disks/…",
    ):
        text.append_text(safe_lines(f"  {command}", "strong")).append("\n")
    if settings.encryption not in ("none", "authenticated", "authenticated-blake2"):
        text.append("\nKeep a copy of the key and of the passphrase elsewhere:\n", "quiet")
        text.append_text(safe_lines(f"  borg key export --paper {target}", "strong")).append("\n")
    return text


def _line(text: Text, name: str, value: str, style: str = "") -> None:
    text.append(f"{name:<12}", "quiet").append_text(safe_lines(value, style)).append("\n")
