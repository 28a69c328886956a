"""What would come of a group as it stands in the form: guests, times, restore points, and what contradicts what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich.text import Text

from vmconsole.config.settings import Config
from vmconsole.errors import ConfigError, VmconsoleError
from vmconsole.front import changing
from vmconsole.front.group_words import Covered, covered_by, keep_in_words
from vmconsole.front.services import Services
from vmconsole.model.group import Group
from vmconsole.model.guest import Guest
from vmconsole.model.words import age
from vmconsole.runs.alerts import unprotected
from vmconsole.runs.prune import Plan, judge
from vmconsole.runs.retention import Verdict
from vmconsole.tui.commands import Command
from vmconsole.tui.format import safe, safe_lines
from vmconsole.tui.group_fields import FIELDS, SCHEDULE_FIELDS, Field, changed, group_command
from vmconsole.tui.group_text import field as line
from vmconsole.tui.group_text import overlap_text, schedules_text, times_text
from vmconsole.tui.picture import Picture
from vmconsole.tui.states import Glyphs, State

_STAND_IN = "new-group"
_LISTED = 12


@dataclass(frozen=True, slots=True)
class Wish:
    """What the form says. name: of the group; new: it is to be made. before, after: texts by field.

    schedule: the one of several that the form is about; empty when it is about the group.
    """

    name: str
    new: bool
    before: Mapping[str, str]
    after: Mapping[str, str]
    schedule: str = ""

    @property
    def fields(self) -> Sequence[Field]:
        return SCHEDULE_FIELDS if self.schedule else FIELDS

    @property
    def within(self) -> tuple[str, ...]:
        """Where in the group's table its fields are."""
        return ("schedules", self.schedule) if self.schedule else ()

    def changes(self) -> dict[str, Any]:
        """As TOML data. Raises ConfigError."""
        return changed(self.before, self.after, self.fields)

    def command(self) -> tuple[str, ...]:
        return group_command(self.name, self.changes(), new=self.new, schedule=self.schedule)


@dataclass(frozen=True, slots=True)
class Points:
    """What the rules would do to the restore points there are. going: at the next prune; gone: marked already.

    going_now: by the rules as they are in the file. oldest: when the oldest that stays was made.
    """

    kept: int = 0
    going: int = 0
    gone: int = 0
    going_now: int = 0
    oldest: datetime | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """error: why it cannot be saved; the rest is then of what could still be told.

    gained, lost: guests that it did not cover before, or does no more. unprotected: those of lost that are in no
    group any more. without: by guest's uuid, the disks that are left out. points: None while there is nothing to tell.
    """

    wish: Wish
    error: VmconsoleError | None = None
    command: tuple[str, ...] = ()
    group: Group | None = None
    without: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    covered: tuple[Covered, ...] = ()
    gained: tuple[Guest, ...] = ()
    lost: tuple[Guest, ...] = ()
    unprotected: tuple[Guest, ...] = ()
    left_out: tuple[tuple[Guest, str], ...] = ()
    points: Points | None = None

    @property
    def ready(self) -> bool:
        """Whether it can be saved."""
        return self.error is None and bool(self.command)


def preview_of(wish: Wish, services: Services, picture: Picture) -> Preview:
    """Reads the file and the memory, so not for the event loop. Never raises VmconsoleError."""
    try:
        changes = wish.changes()
        if wish.new and not wish.name:
            error: ConfigError | None = ConfigError("The group has no name yet.", hint="As in: daily")
        else:
            error = None
        config = _would_be(wish, changes, services)
        name = wish.name or _STAND_IN
        return _told(wish, config, name, services, picture, error)
    except VmconsoleError as problem:
        return Preview(wish, _about_the_form(problem, wish))


def _about_the_form(problem: VmconsoleError, wish: Wish) -> VmconsoleError:
    """Without where it would stand in a file, and without being told that nothing was changed yet."""
    message = problem.message
    for place in (("groups", wish.name or _STAND_IN, *wish.within), ("groups", wish.name or _STAND_IN)):
        message = message.replace(f"{'.'.join(place)}.", "").replace(f"{'.'.join(place)}: ", "")
    hint = "" if problem.hint.startswith("Nothing was changed") else problem.hint
    return VmconsoleError(message, hint=hint)


def _would_be(wish: Wish, changes: dict[str, Any], services: Services) -> Config:
    if wish.new:
        given = {key: value for key, value in changes.items() if value is not None}
        return changing.add(services, "groups", wish.name or _STAND_IN, given, save=False)
    if not changes:
        return services.config
    return changing.change(services, "groups", wish.name, changes, within=wish.within, save=False)


def _told(
    wish: Wish, config: Config, name: str, services: Services, picture: Picture, error: ConfigError | None
) -> Preview:
    groups = config.groups()
    group = config.group(name)
    guests = [row.guest for row in picture.guests]
    covered = covered_by(group, groups, guests)
    now = {item.guest.uuid for item in covered}
    before = {row.key for row in picture.guests if not wish.new and wish.name in row.groups}
    lost = [guest for guest in guests if guest.uuid in before - now]
    return Preview(
        wish,
        error,
        wish.command() if wish.changes() and error is None else (),
        group,
        {item.guest.uuid: config.export_options(item.guest, name).exclude_disks for item in covered},
        tuple(covered),
        tuple(item.guest for item in covered if item.guest.uuid not in before),
        tuple(lost),
        tuple(guest for guest in lost if unprotected(guest, groups)),
        tuple((guest, by) for guest in guests if (by := group.selector.excluded_by(guest))),
        _points(group, groups, now, services, picture),
    )


def _points(
    group: Group, groups: Sequence[Group], covered: set[str], services: Services, picture: Picture
) -> Points | None:
    """Of the guests it covers, the restore points that its rules are about."""
    guests = {row.key: row.guest for row in picture.guests}
    own = [point for point in services.store.points(group.repository) if point.uuid in covered]
    if not own:
        return None
    marked = {mark.archive for mark in services.ledger.marks(group.repository)}

    def judged(by: Sequence[Group]) -> list[Verdict]:
        verdicts = judge(group.repository, own, Plan(by, guests, picture.zone), marked)
        return [verdict for verdict in verdicts if verdict.group == group.name]

    verdicts = judged(groups)
    if not verdicts:
        return None
    kept = [verdict.point.time for verdict in verdicts if verdict.keep]
    lost = [verdict for verdict in verdicts if not verdict.keep]
    gone = sum(verdict.marked for verdict in lost)
    now = sum(not verdict.keep and not verdict.marked for verdict in judged(services.config.groups()))
    return Points(len(kept), len(lost) - gone, gone, now, min(kept, default=None))


def preview_text(preview: Preview, picture: Picture, glyphs: Glyphs) -> Text:
    """For the pane beside the form: what stops it first, then what is lost, then the rest."""
    text = Text(end="")
    if preview.error is not None:
        text.append(f"{glyphs.of(State.FAILED)} ", "failed").append_text(
            safe_lines(preview.error.message, "failed")
        ).append("\n")
        if preview.error.hint:
            text.append("→ ", "key").append_text(safe_lines(preview.error.hint)).append("\n")
        if preview.group is None:
            return text
    elif not preview.command:
        text.append("Nothing is changed yet.\n", "quiet")
    if preview.group is None:
        return text
    for guest in preview.unprotected:
        text.append_text(safe(f"! {guest.name} would be in no group: nothing backs it up.", "late")).append(
            "\n"
        )
    group = preview.group
    count, more, less = len(preview.covered), len(preview.gained), len(preview.lost)
    covers = Text(f"{count} guest{'s' * (count != 1)}", "strong" if count else "late", end="")
    if more and not preview.wish.new:
        covers.append(f"  +{more}", "ok")
    covers.append(f"  -{less}" if less else "", "late")
    text.append_text(line("covers", covers))
    if preview.wish.schedule or len(group.schedules) > 1:
        text.append_text(schedules_text(group, picture.now, picture.zone))
    if group.schedules:
        text.append_text(line("next", times_text(group, picture.now, picture.zone)))
    else:
        text.append_text(line("next", safe("never by itself: there is no schedule", "late")))
    text.append_text(line("keeps", keep_in_words(group.retention)))
    text.append_text(_points_text(preview.points, picture))
    if preview.command:
        text.append_text(line("command", Command(preview.command).text))
    text.append_text(_guests(preview))
    return text.append_text(overlap_text(preview.covered))


def _guests(preview: Preview) -> Text:
    count, text = len(preview.covered), Text(end="")
    for guest in preview.lost:
        text.append("- ", "late").append_text(
            safe(f"{guest.name}  {guest.host}  not any more", "late")
        ).append("\n")
    gained = set() if preview.wish.new else {guest.uuid for guest in preview.gained}
    # What would change is seen first, whatever the length of the list.
    ordered = sorted(preview.covered, key=lambda item: item.guest.uuid not in gained)
    for item in ordered[:_LISTED]:
        new = item.guest.uuid in gained
        text.append("+ " if new else "  ", "ok")
        text.append_text(safe(item.guest.name, "ok" if new else "strong")).append("  ")
        text.append_text(safe(f"{item.guest.host}  {item.why}", "quiet")).append("\n")
        if without := preview.without.get(item.guest.uuid):
            none_left = {disk.id for disk in item.guest.disks} <= set(without)
            said = f"    without {', '.join(without)}{': no disk is left' * none_left}"
            text.append_text(safe(said, "late" if none_left else "quiet")).append("\n")
    if (more := count - _LISTED) > 0:
        text.append(f"  and {more} more\n", "quiet")
    for guest, by in preview.left_out:
        text.append("  ").append_text(safe(f"{guest.name}  left out by {by}", "quiet")).append("\n")
    return text


def _points_text(points: Points | None, picture: Picture) -> Text:
    if points is None:
        return line("points", safe("none yet that these rules are about", "quiet"))
    total = points.kept + points.going
    text = Text(f"{points.kept} of {total} stay", end="")
    if points.oldest is not None:
        text.append(f", the oldest made {age(picture.now - points.oldest)}", "quiet")
    if points.going or points.going_now:
        same = points.going == points.going_now
        than = "as it is now" if same else f"now {points.going_now}"
        style = "late" if points.going > points.going_now else ""
        text.append(f"; {points.going} would go at the next prune ({than})", style)
    if points.gone:
        text.append(f"; {points.gone} pruned before", "quiet")
    return line("points", text)
