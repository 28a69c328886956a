"""What a group is, as text for panes. Pure; style names of ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, tzinfo

from rich.text import Text

from vmconsole.config.settings import Config
from vmconsole.front.group_words import Covered, coming, keep_in_words, when_in_words
from vmconsole.model.calendar import opens
from vmconsole.model.group import Group
from vmconsole.model.words import age, duration, size
from vmconsole.tui.format import safe, safe_lines
from vmconsole.tui.group_rows import GroupRow
from vmconsole.tui.picture import GuestRow, Picture
from vmconsole.tui.states import Glyphs, State

TIMES = 5
_LABEL = 12
_NAMED = 3


def field(label: str, value: Text | str) -> Text:
    """`label       value` and a line's end."""
    shown = safe(value) if isinstance(value, str) else value
    return Text.assemble((f"{label:<{_LABEL}}", "quiet"), shown, "\n", end="")


def why_text(row: GroupRow, picture: Picture, glyphs: Glyphs) -> Text:
    """One or two sentences on its state, and the key that helps."""
    text = Text.assemble(glyphs.label(row.state, row.word), end="")
    bad = [member for member in row.members if member.needs_attention]
    if row.group is None:
        count = len(row.members)
        text.append(f": {count} guest{'s are' if count != 1 else ' is'} in no group; nothing backs ")
        text.append("it" if count == 1 else "them").append(" up by itself. ")
        return text.append("a on Guests puts guests into a group.\n", "key")
    if not row.members:
        text.append(": it covers no guest that is known. ")
        return text.append("e changes which, R asks the hosts again.\n", "key")
    if bad:
        text.append(f": {len(bad)} of {len(row.members)} guests need attention: ")
        text.append_text(_some(bad)).append(". ")
        text.append("enter lists all, l shows the log of the last run.\n", "key")
        return text
    if row.paused:
        text.append(": " if row.state is State.PAUSED else ", and paused: ")
        until = min((item.pause for item in row.group.schedules if item.pause), default=None)
        text.append(
            "nothing is backed up until somebody resumes it. "
            if until is None or until.year == 9999
            else f"nothing is backed up until {_moment(until, picture.zone)}. "
        )
        return text.append("p goes on.\n", "key")
    if not row.group.schedules:
        return text.append(": it has no schedule, so only b backs it up. ").append("e gives it one.\n", "key")
    return text.append("\n")


def _some(rows: Sequence[GuestRow]) -> Text:
    text = Text(end="")
    for number, member in enumerate(rows[:_NAMED]):
        text.append(", " if number else "")
        text.append_text(safe(member.guest.name, "strong")).append(f" ({member.state.value})")
    if more := len(rows) - _NAMED:
        text.append(f" and {more} more" if more > 0 else "")
    return text


def detail_text(row: GroupRow, picture: Picture, glyphs: Glyphs) -> Text:
    """All about a group: its state, times, rules, limits, and the guests it covers and does not."""
    text = why_text(row, picture, glyphs)
    if row.group is not None and picture.config is not None:
        text.append_text(_plan(row, row.group, picture, picture.config))
    text.append_text(guests_text(row, picture, glyphs))
    return text


def _plan(row: GroupRow, group: Group, picture: Picture, config: Config) -> Text:
    now, zone = picture.now, picture.zone
    text = schedules_text(group, now, zone)
    if not group.schedules:
        text.append_text(field("when", "by hand only"))
    else:
        text.append_text(field("next", times_text(group, now, zone)))
    text.append_text(field("keeps", keep_in_words(group.retention)))
    if row.last is not None:
        ago = age(now - row.last.started)
        text.append_text(field("last", f"{_moment(row.last.started, zone)}, {ago}: {row.last.state.value}"))
    text.append_text(field("repository", group.repository))
    text.append_text(field("limits", limits_in_words(group, config)))
    if group.overdue_after:
        text.append_text(
            field("overdue", f"after {duration(group.overdue_after)} without a good restore point")
        )
    if group.together:
        otherwise = "each by itself" if group.apart else "none of them"
        text.append_text(
            field("together", f"all are frozen and cut at the same moment; when that fails, {otherwise}")
        )
    if group.ping:
        text.append_text(field("ping", group.ping))
    return text


def schedules_text(group: Group, now: datetime, zone: tzinfo) -> Text:
    """When, for each of its schedules, and what those keep that say so themselves."""
    text, several = Text(end=""), len(group.schedules) > 1
    for schedule in group.schedules:
        text.append_text(field("when", f"{schedule.name}: " * several + when_in_words(schedule, now, zone)))
        if schedule.retention != group.retention:
            text.append_text(field("", f"keeps {keep_in_words(schedule.retention)}"))
    return text


def times_text(group: Group, now: datetime, zone: tzinfo, count: int = TIMES) -> Text:
    """The next times; where work waits for its window, when that opens."""
    times = sorted(
        (time, opens(schedule.window, time, zone))
        for schedule in group.schedules
        for time in coming(schedule, now, zone, count)
    )[:count]
    if not times:
        return safe("never", "late" if group.schedules else "quiet")
    text = Text(end="")
    for number, (time, begins) in enumerate(times):
        text.append(" · " if number else "", "quiet")
        text.append(_short(time, now, zone))
        if begins > time:
            text.append(f" (window opens {begins.astimezone(zone):%H:%M})", "quiet")
    return text


def limits_in_words(group: Group, config: Config) -> str:
    """How many at a time, and how fast."""
    limits = config.file.limits
    into = config.repository_limits(group.repository).parallel
    rate = f", {size(limits.rate)}/s at most" if limits.rate else ""
    return f"{limits.parallel} guests at a time, {limits.per_host} per host, {into} into the repository{rate}"


def guests_text(row: GroupRow, picture: Picture, glyphs: Glyphs) -> Text:
    """Those it covers and why, those it leaves out, those that no group covers."""
    text = Text(end="")
    if row.group is None:
        for member in row.members:
            text.append_text(_guest_line(glyphs, member, safe(member.guest.node or "", "quiet")))
        return text
    selector = row.group.selector
    text.append(f"covers {len(row.members)} guest{'s' * (len(row.members) != 1)}\n", "title")
    covered = []
    for member in row.members:
        others = tuple(name for name in member.groups if name != row.name)
        why = selector.why(member.guest) or ""
        covered.append(Covered(member.guest, why, others))
        also = safe(f"  + {', '.join(others)}", "warning") if others else Text(end="")
        text.append_text(_guest_line(glyphs, member, Text.assemble(safe(why, "quiet"), also, end="")))
    text.append_text(overlap_text(covered))
    left_out = [(member.guest, by) for member in picture.guests if (by := selector.excluded_by(member.guest))]
    if left_out:
        text.append("left out on purpose\n", "title")
        for guest, by in left_out:
            text.append("  ").append_text(safe(f"{guest.name}  by {by}", "quiet")).append("\n")
    lost = [member for member in picture.guests if not member.groups and member.state is State.NEVER]
    if lost:
        text.append("in no group at all\n", "title")
        for member in lost:
            text.append_text(_guest_line(glyphs, member, safe("", "quiet")))
    return text


def overlap_text(covered: Iterable[Covered]) -> Text:
    """What it means that guests are in other groups too."""
    shared = [item for item in covered if item.others]
    if not shared:
        return Text(end="")
    names = ", ".join(dict.fromkeys(name for item in shared for name in item.others))
    who = shared[0].guest.name if len(shared) == 1 else f"{len(shared)} guests"
    verb = "is" if len(shared) == 1 else "are"
    return safe_lines(
        f"! {who} {verb} also in {names}: the schedules of each back up, and each counts and keeps "
        "its own restore points.\n",
        "warning",
    )


def removal_text(row: GroupRow) -> Text:
    """What is lost when it is removed."""
    alone = [member for member in row.members if len(member.groups) == 1]
    text = Text(end="")
    if alone:
        count = len(alone)
        text.append(
            f"{count} guest{'s are' if count != 1 else ' is'} then in no group, and not backed up by "
        )
        text.append("itself: " if count == 1 else "themselves: ")
        for number, member in enumerate(alone[:6]):
            text.append(", " if number else "").append_text(safe(member.guest.name, "strong"))
        text.append(f" and {count - 6} more" if count > 6 else "").append(".\n")
    elif row.members:
        text.append("All its guests are in other groups too.\n")
    text.append("Its restore points stay, and nothing prunes those that no group's rules are about.", "quiet")
    return text


def _guest_line(glyphs: Glyphs, member: GuestRow, why: Text) -> Text:
    label = glyphs.label(member.state)
    pad = " " * max(1, 10 - len(label.plain))
    name = safe(f"{member.guest.name}", "strong")
    return Text.assemble(
        "  ", label, pad, name, "  ", safe(member.guest.host, "quiet"), "  ", why, "\n", end=""
    )


def _moment(time: datetime, zone: tzinfo) -> str:
    return f"{time.astimezone(zone):%Y-%m-%d %H:%M}"


def _short(time: datetime, now: datetime, zone: tzinfo) -> str:
    """`Sat 02:00` within a week, else with the date."""
    local = time.astimezone(zone)
    days = (local.date() - now.astimezone(zone).date()).days
    return f"{local:%a %H:%M}" if days < 7 else f"{local:%a %d %b %H:%M}"
