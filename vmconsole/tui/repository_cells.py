"""Parts of what is told of repositories: cells, and what a compact would delete."""

from __future__ import annotations

from rich.text import Text

from vmconsole.model.words import duration, size
from vmconsole.tui.format import safe, safe_lines
from vmconsole.tui.repositories import RepositoryRow

SHOWN = 8
"""Points that a question names."""


def factor_cell(row: RepositoryRow) -> Text:
    if not row.factor:
        return safe("–", "quiet")
    return safe(f"{row.factor:.1f} : 1" if row.factor < 10 else f"{row.factor:.0f} : 1")


def free_cell(row: RepositoryRow) -> Text:
    space = row.known.space
    if space is None or not space.size:
        return safe("–", "quiet")
    return safe(
        f"{size(space.free)}, {100 - space.used_percent:.0f} %",
        "late" if row.word == "nearly full" else "",
    )


def free_bytes(row: RepositoryRow) -> float:
    return float(row.known.space.free) if row.known.space else -1.0


def points_are(count: int) -> str:
    return "1 point is" if count == 1 else f"{count} points are"


def compact_text(row: RepositoryRow, document: object) -> Text:
    """document: of the dry run."""
    found = document.get("repositories", [{}])[0] if isinstance(document, dict) else {}
    delete, later, spared = (list(found.get(name, ())) for name in ("delete", "later", "spared"))
    text = Text(end="")
    if delete:
        count = len(delete)
        text.append(f"{'1 pruned point' if count == 1 else f'{count} pruned points'}", "strong")
        text.append(f" of {safe(row.name).plain} will be deleted. Nobody can undo that.\n\n")
        for archive in delete[:SHOWN]:
            text.append_text(safe(f"  {archive}\n".rstrip())).append("\n")
        if count > SHOWN:
            text.append(f"  and {count - SHOWN} more\n", "quiet")
    else:
        text.append(
            f"No pruned point is old enough to be deleted; unused space of {safe(row.name).plain} is freed.\n"
        )
    if later:
        undo = duration(row.settings.undo)
        count = len(later)
        text.append(
            f"\n{'1 was' if count == 1 else f'{count} were'} pruned less than {undo} ago and stay for now.",
            "quiet",
        )
    for archive in spared:
        text.append_text(safe_lines(f"\n{archive} stays: it is the last point of its guest.", "quiet"))
    text.append(
        f"\n{points_are(row.known.points - len(spared))} not touched. How much is freed is known afterwards.",
        "quiet",
    )
    return text
