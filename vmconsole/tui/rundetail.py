"""All about one run, as text for a pane: what goes on, what waits, what became of each guest."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.cells import cell_len
from rich.text import Text

from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.run import RunState
from vmconsole.model.words import countdown, duration, progress_size, size, visible
from vmconsole.tui.following import DiskPart, Following, GuestPart, Stage
from vmconsole.tui.format import fit, safe, safe_lines
from vmconsole.tui.runrows import DIED, RunRow, Watched, labels, outcome_of, speed
from vmconsole.tui.states import Glyphs, State

_ALL, _LEAST_WHY = 65, 14
_SAY_MORE = ("died", "stopped", "not done")
_STEP, _SIZES, _SPEED = 7, 13, 26
_NAME, _MOST_BAR, _LEAST_BAR = 20, 32, 6


def run_detail(row: RunRow, watched: Watched | None, glyphs: Glyphs, now: datetime, width: int) -> Text:
    """width: columns there are; lines with bars are made for it, the others may be wrapped."""
    following = watched.following if watched is not None else Following()
    records = watched.records if watched is not None else ()
    text = Text(end="")
    if watched is None:
        return text.append("Reading what is known of it …", "quiet")
    text.append_text(_error(row, records, following))
    text.append_text(working_lines(row, following, glyphs, now, width))
    if row.waits:
        text.append_text(glyphs.label(State.QUEUED, f"{len(row.waits)} to come: "))
        text.append_text(safe_lines(", ".join(row.waits), "quiet")).append("\n")
    last = {record.uuid: record for record in records}
    ended = [record for record in last.values() if record.state is not BackupState.RUNNING or not row.running]
    called = labels(ended)
    names = _widest(list(called.values()))
    for record in sorted(ended, key=_order):
        part = following.part(record.uuid, record.guest)
        text.append_text(_ended(record, called[record.uuid], part, glyphs, width, names))
    if not records:
        for guest in following.guests.values():
            if guest.stage is not Stage.WORKING:
                text.append_text(_part(guest, following.label(guest), glyphs))
    for warning in following.warnings:
        text.append("! ", "warning").append_text(safe_lines(warning)).append("\n")
    if not text.plain:
        text.append("It is beginning." if row.running else "It was about no guest; l shows its log.", "quiet")
    return text


def working_lines(row: RunRow, following: Following, glyphs: Glyphs, now: datetime, width: int) -> Text:
    """What goes on now: a line for each guest, one for each disk of several, and what holds it up."""
    text = Text(end="")
    if not row.running:
        return text
    if following.waiting is not None:
        subject, reason = following.waiting
        text.append_text(glyphs.label(State.QUEUED, "waits for ")).append_text(safe_lines(subject, "strong"))
        text.append(": ").append_text(safe_lines(reason)).append("\n")
    working = following.working
    names = _widest([following.label(guest) for guest in working])
    for guest in working:
        text.append_text(_guest_line(guest, following.label(guest), glyphs, now, width, names)).append("\n")
        if len(guest.disks) > 1 and guest.moving:
            for disk in guest.disks.values():
                text.append_text(_disk_line(disk, glyphs, now, width, names)).append("\n")
    for why in following.held.values():
        text.append(glyphs.of(State.PAUSED) + " ", "late").append_text(safe_lines(why, "late")).append("\n")
    return text


def label_of(state: State, word: str, glyphs: Glyphs) -> Text:
    """In ASCII the state is a word itself: ours is added where it says more."""
    return glyphs.label(state, word if not glyphs.ascii or word in _SAY_MORE else "")


def bar(share: float, length: int, glyphs: Glyphs) -> Text:
    """length columns, the share of them filled; all of them only when it is all."""
    filled = length if share >= 1 else min(length - 1, int(length * share))
    full, empty = ("#", "-") if glyphs.ascii else ("━", "─")
    return Text.assemble((full * filled, "running"), (empty * (length - filled), "quiet"), end="")


def _guest_line(guest: GuestPart, name: str, glyphs: Glyphs, now: datetime, width: int, names: int) -> Text:
    line = Text.assemble(
        ("> " if glyphs.ascii else "▶ ", "running"), fit(safe(name, "strong"), names), "  ", end=""
    )
    if not guest.moving:
        line.append_text(safe(guest.step or "begins"))
        line.append(f"  {countdown((now - guest.since).total_seconds())}", "quiet")
        return line
    line.append_text(fit(safe(guest.step, "quiet"), _STEP)).append(" ")
    return _moving(line, guest.done, guest.total, speed(guest, now), glyphs, width)


def _disk_line(disk: DiskPart, glyphs: Glyphs, now: datetime, width: int, names: int) -> Text:
    line = Text.assemble("    ", fit(safe(disk.name, "quiet"), names + _STEP), " ", end="")
    if disk.complete:
        return line.append("read", "ok").append(f"  {size(disk.total)}", "quiet")
    rate = disk.rate(now)
    return _moving(
        line, disk.done, disk.total, f"{size(round(rate)) + '/s':>10}" if rate else "", glyphs, width
    )


def _moving(line: Text, done: int, total: int, how_fast: str, glyphs: Glyphs, width: int) -> Text:
    """The rest of a line: a bar where there is room, then figures; the speed goes first where there is none."""
    share = min(1.0, done / total) if total else 1.0
    # Rounded down: 100 % is said when it is true. Of one width, or bars would jump and differ.
    figures = f" {int(share * 100):3d} %  {progress_size(min(done, total), total):>{_SIZES}}"
    room = width - cell_len(line.plain) - len(figures)
    if room >= _SPEED + _LEAST_BAR:
        figures += f"  {how_fast}"
        room -= _SPEED
    elif how_fast and room >= len(how_fast) + 2:
        figures += f"  {how_fast}"
        room = 0
    if room >= _LEAST_BAR:
        line.append_text(bar(share, min(_MOST_BAR, room), glyphs))
    return line.append(figures)


def _widest(names: Sequence[str]) -> int:
    return min(_NAME, max((cell_len(visible(name)) for name in names), default=0))


def _error(row: RunRow, records: Sequence[BackupRecord], following: Following) -> Text:
    """Why it ended badly, unless a guest's line says so."""
    run = row.run
    told = {record.error for record in records} | {guest.told for guest in following.guests.values()}
    error = run.error or (DIED if run.state is RunState.DIED else "")
    if not error or error in told:
        return Text(end="")
    return safe_lines(error, "failed" if row.state is State.FAILED else "").append("\n")


def _order(record: BackupRecord) -> tuple[bool, bool]:
    """What went wrong first; otherwise in the order they began."""
    return record.state not in (BackupState.FAILED, BackupState.DIED), record.state is BackupState.DONE


def _ended(
    record: BackupRecord, name: str, part: GuestPart | None, glyphs: Glyphs, width: int, names: int
) -> Text:
    state, word = outcome_of(record)
    text = Text.assemble(
        fit(label_of(state, word, glyphs), 11), fit(safe(name, "strong"), names), "  ", end=""
    )
    if record.good:
        text.append_text(_figures(record, width - cell_len(text.plain)))
    elif record.error:
        text.append_text(safe_lines(record.error))
    elif record.state is BackupState.DIED:
        text.append("was not finished", "quiet")
    text.append("\n")
    if record.hint:
        text.append("           → ", "key").append_text(safe_lines(record.hint)).append("\n")
    for warning in part.warnings if part is not None else ():
        text.append("           ! ", "warning").append_text(safe_lines(warning)).append("\n")
    return text


def _figures(record: BackupRecord, width: int) -> Text:
    """In columns, as many as there is room for; why it was read whole comes last."""
    text = Text(f"{record.mode:<11}", end="")
    why = record.reason if record.mode == "full" else ""
    took = f"  {duration(record.seconds):>8}"
    for part in (
        f"  {record.consistency:<11}" if width >= _ALL else "",
        f"  {size(record.bytes_read):>8} read",
        f"  {size(record.bytes_stored):>8} stored",
    ):
        if cell_len(text.plain) + len(part) + len(took) <= width:
            text.append(part)
    text.append(took)
    if why and width - cell_len(text.plain) > _LEAST_WHY:
        text.append_text(safe(f"  {why}", "quiet"))
        text.truncate(width, overflow="ellipsis")
    return text


def _part(guest: GuestPart, name: str, glyphs: Glyphs) -> Text:
    """Of a run that leaves no records, as a restore."""
    state, word = {
        Stage.DONE: (State.OK, "done"),
        Stage.FAILED: (State.FAILED, "failed"),
        Stage.POSTPONED: (State.QUEUED, "postponed"),
        Stage.LEFT: (State.OFF, "not done"),
    }[guest.stage]
    text = Text.assemble(fit(label_of(state, word, glyphs), 11), safe(name, "strong"), "  ", end="")
    text.append_text(safe_lines(guest.told))
    if guest.bytes_read:
        text.append(f"  {size(guest.bytes_read)} in {duration(guest.seconds)}", "quiet")
    text.append("\n")
    if guest.hint:
        text.append("           → ", "key").append_text(safe_lines(guest.hint)).append("\n")
    for warning in guest.warnings:
        text.append("           ! ", "warning").append_text(safe_lines(warning)).append("\n")
    return text
