"""All about one restore point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, tzinfo

from rich.text import Text

from vmconsole.model.point import DiskPoint, Mode
from vmconsole.model.words import duration, size
from vmconsole.tui.format import fit, safe, spark
from vmconsole.tui.picture import Picture
from vmconsole.tui.points import Day, PointRow

_BARS = 24
"""Points whose changes are drawn as bars."""
_CONSISTENCY = {
    "application": "application: frozen through the guest agent, files were whole",
    "crash": "crash: cut while running, as after a power failure",
    "offline": "offline: the guest was off",
}


def point_text(row: PointRow, picture: Picture, undo: float | None) -> Text:
    """undo: seconds for which a pruned point can be had back."""
    point = row.point
    text = Text(end="")
    if row.mark is not None:
        text.append(f"pruned {row.mark.marked.astimezone(picture.zone):%Y-%m-%d %H:%M}", "late")
        text.append(f": hidden, and deleted by the first compact {duration(undo or 0)} later. ")
        text.append("u has it back.\n", "key")
    elif point.pinned:
        text.append("pinned      ", "quiet").append("kept whatever the rules say").append(
            "; o unpins\n", "key"
        )
    for warning in point.warnings:
        text.append("! ", "warning").append_text(safe(warning)).append("\n")
    _line(text, "mode", f"{point.mode.value}{f': {point.reason}' if point.reason else ''}")
    frozen = f" ({point.freeze_ms} ms)" if point.freeze_ms is not None else ""
    _line(text, "consistency", _CONSISTENCY[point.consistency.value] + frozen)
    _line(
        text,
        "read",
        f"{size(point.total('bytes_read'))} of {size(point.size)}, stored "
        f"{size(point.total('bytes_stored'))}, in {duration(point.seconds)}",
    )
    for number, disk in enumerate(point.disks):
        text.append(f"{'' if number else 'disks':<12}", "quiet").append_text(
            _disk(disk, point.reason)
        ).append("\n")
    if point.together:
        names = point.together.get("guests", ())
        listed = ", ".join(str(name) for name in names) if isinstance(names, (list, tuple)) else ""
        _line(text, "together", f"cut with {listed}, within {point.together.get('skew_ms', '?')} ms")
    _line(text, "made by", f"group {point.group}" if point.group else "by hand")
    _line(text, "archive", f"{point.archive} in repository {row.repository}")
    _line(text, "verified", "not recorded yet; v in 5 Repositories checks all of it", "quiet")
    return text


def _line(text: Text, name: str, value: str, style: str = "") -> None:
    text.append(f"{name:<12}", "quiet").append_text(safe(value, style)).append("\n")


def _disk(disk: DiskPoint, known: str) -> Text:
    """known: a reason that was told already."""
    text = Text.assemble(fit(safe(disk.id, "strong"), 10), f"{size(disk.size):>9}  ", end="")
    if disk.mode is Mode.SKIPPED:
        return text.append("left out", "late").append_text(safe(f"  {disk.reason}", "quiet"))
    text.append(f"{disk.mode.value:<11}  ")
    text.append(f"read {size(disk.bytes_read)}, stored {size(disk.bytes_stored)}", "quiet")
    return text.append_text(safe(f"  {disk.reason}", "quiet")) if disk.reason not in ("", known) else text


def guest_summary(
    own: Sequence[PointRow], days: Mapping[date, Day], zone: tzinfo, *, ascii_only: bool = False
) -> Text:
    """own: all points of one guest, newest first."""
    kept = [row.point for row in own if row.mark is None]
    full = next((point for point in kept if point.mode.value == "full"), None)
    failed = sum(day.what == "failed" for day in days.values())
    text = Text(end="")
    for name, value, style in (
        ("points", f"{len(kept)}", ""),
        ("stored", size(sum(point.total("bytes_stored") for point in kept)), ""),
        ("last full", f"{full.time.astimezone(zone):%Y-%m-%d}" if full else "–", ""),
        (
            "without",
            f"{failed} failed {'day' if failed == 1 else 'days'}",
            "failed" if failed else "quiet",
        ),
    ):
        if name != "without" or failed:
            text.append(f" {name:<10}", "quiet").append(f"{value}\n", style)
    newest = [float(point.total("bytes_dirty")) for point in kept[:_BARS]]
    if len(newest) > 1:
        bars = spark(newest[::-1], ascii_only=ascii_only)
        text.append(f" {'changed':<10}", "quiet").append(f"{bars}\n", "running")
    return text
