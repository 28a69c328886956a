"""Two restore points side by side."""

from __future__ import annotations

from datetime import tzinfo

from rich.text import Text
from textual.app import ComposeResult

from vmconsole.model.words import duration, size
from vmconsole.tui.context import console_of
from vmconsole.tui.dialogs.dialog import Dialog
from vmconsole.tui.format import fit, safe
from vmconsole.tui.points import Comparison, PointRow
from vmconsole.tui.widgets.pane import Pane

_WIDTH = 24


class Compare(Dialog[None]):
    CSS = "Compare #comparison { height: auto; max-height: 18; background: $surface; }"

    def __init__(self, comparison: Comparison) -> None:
        super().__init__()
        self._comparison = comparison

    def heading(self) -> Text:
        return Text("Two restore points", "title", end="")

    def content(self) -> ComposeResult:
        yield Pane(id="comparison")

    def on_mount(self) -> None:
        pane = self.query_one(Pane)
        console = console_of(self)
        pane.show(comparison_text(self._comparison, console.picture.zone, ascii_only=console.glyphs.ascii))
        pane.focus()


def comparison_text(found: Comparison, zone: tzinfo, *, ascii_only: bool = False) -> Text:
    """As a table of two columns, then the disks, then what was done in between."""
    older, newer = found.older, found.newer
    apart = (newer.point.time - older.point.time).total_seconds()
    arrow, nothing = ("->", "-") if ascii_only else ("→", "–")
    text = Text(end="")
    for name, left, right in (
        ("guest", safe(older.point.guest), safe(newer.point.guest)),
        ("time", _time(older, zone), _time(newer, zone)),
        ("mode", safe(older.point.mode.value), safe(newer.point.mode.value)),
        ("consistency", safe(older.point.consistency.value), safe(newer.point.consistency.value)),
        ("size", safe(size(older.point.size)), safe(size(newer.point.size))),
        ("repository", safe(older.repository), safe(newer.repository)),
    ):
        differs = left.plain != right.plain
        text.append(f"{name:<13}", "quiet").append_text(fit(left, _WIDTH)).append("  ")
        text.append_text(_styled(right, "strong" if differs and name not in ("time",) else "")).append("\n")
    text.append(f"\n{duration(apart)} apart", "title")
    if not found.same_guest:
        text.append(": these are points of two different guests.\n", "warning")
    else:
        count = len(found.between)
        text.append(f", {'1 backup' if count == 1 else f'{count} backups'} to the newer one\n", "quiet")
        for name, figure in (("changed", "bytes_dirty"), ("read", "bytes_read"), ("stored", "bytes_stored")):
            text.append(f"{name:<13}", "quiet").append(f"{size(found.total(figure))}\n")
    text.append("\nDisks\n", "title")
    for disk in found.disks:
        before = nothing if disk.before is None else size(disk.before)
        after = nothing if disk.after is None else size(disk.after)
        text.append_text(fit(safe(disk.id), 12)).append(f" {before:>10} {arrow} {after:<10} ")
        text.append(f"{disk.what}\n", "quiet" if disk.what == "same size" else "warning")
    text.append("\nWhich blocks and which files differ is not compared yet.  esc closes this", "quiet")
    return text


def _time(row: PointRow, zone: tzinfo) -> Text:
    return safe(f"{row.point.time.astimezone(zone):%Y-%m-%d %H:%M:%S}")


def _styled(text: Text, style: str) -> Text:
    return safe(text.plain, style)
