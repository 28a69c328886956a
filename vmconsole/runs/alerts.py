"""What is wrong now, told from what is remembered. Pure: nothing is asked, nothing is sent."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo

from vmconsole.model.alert import Alert, AlertKind
from vmconsole.model.group import Group
from vmconsole.model.guest import Guest
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.model.ledger import Vanished
from vmconsole.model.message import Delivery
from vmconsole.model.repository import RepositorySpace
from vmconsole.model.words import duration, size
from vmconsole.runs.verdicts import Verdicts

FOUND_HERE = frozenset(AlertKind) - {AlertKind.CHANNEL}
"""The kinds that holding_now() finds. Whether a channel works is only known after it was used."""
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Facts:
    """All that alerts, digest and metrics are told from.

    guests: as last seen, each once. latest_good: as History.latest_good(). limits: by group, seconds without a
    good restore point that its schedules allow (schedule/calendar.py); a group that is missing has none.
    followed: by group, since when its schedules have been followed. known: by (uuid, group), since when a guest
    without a restore point has been known there. troubles: repositories that do not work. vanished: not accepted.
    """

    now: datetime
    groups: Sequence[Group]
    guests: Sequence[Guest]
    verdicts: Verdicts
    latest_good: Mapping[tuple[str, str], BackupRecord]
    limits: Mapping[str, float] = field(default_factory=dict)
    followed: Mapping[str, datetime] = field(default_factory=dict)
    known: Mapping[tuple[str, str], datetime] = field(default_factory=dict)
    spaces: Sequence[RepositorySpace] = ()
    troubles: Sequence[Delivery] = ()
    vanished: Sequence[Vanished] = ()
    points: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By (repository, guest uuid), how many restore points were last seen."""
    nearly_full: int = 90
    zone: tzinfo = UTC

    def groups_of(self, guest: Guest) -> list[Group]:
        return [group for group in self.groups if group.selector.why(guest) is not None]

    def good(self, guest: Guest, group: Group) -> BackupRecord | None:
        """The newest that left a restore point where the group wants it: made for the group, or by hand."""
        candidates = (self.latest_good.get((guest.uuid, name)) for name in (group.name, ""))
        found = [record for record in candidates if record and record.repository == group.repository]
        return max(found, key=lambda record: record.started, default=None)

    def is_overdue(self, guest: Guest, group: Group) -> bool:
        limit = timedelta(seconds=group.overdue_after or self.limits.get(group.name, 0.0))
        since = self.waiting_since(guest, group)
        if not limit or since is None:
            return False
        # a rule that was just made closer is not yet broken
        since = max(since, self.followed.get(group.name, since))
        if self.now - since <= limit:
            return False
        running = self.verdicts.running.get((guest.uuid, group.name))
        # a long backup that began in time is not late
        return running is None or running.started - since > limit

    def waiting_since(self, guest: Guest, group: Group) -> datetime | None:
        """When its newest good restore point was finished, else since when one could have been made."""
        if record := self.good(guest, group):
            return record.ended or record.started
        begun = [self.followed.get(group.name), self.known.get((guest.uuid, group.name))]
        return max((moment for moment in begun if moment), default=None)

    def time(self, moment: datetime) -> str:
        return f"{moment.astimezone(self.zone):%Y-%m-%d %H:%M}"


def holding_now(facts: Facts) -> list[Alert]:
    return [
        *_attempts(facts),
        *_overdue(facts),
        *_unprotected(facts),
        *_repositories(facts),
        *_vanished(facts),
    ]


def unprotected(guest: Guest, groups: Sequence[Group]) -> bool:
    """In no group, though no group names it as an exception. Templates do not change."""
    if guest.template:
        return False
    return not any(
        replace(group.selector, exclude=(), exclude_tags=()).why(guest) is not None for group in groups
    )


def argument(guest: str, host: str, uuid: str) -> str:
    """How a guest is named on a command line: its name where that is plain, else its uuid."""
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+-]*", guest)
    return f"{host}/{guest}" if plain else shlex.quote(uuid)


def _attempts(facts: Facts) -> Iterator[Alert]:
    """One alert for each attempt, also where one by hand counts for several groups."""
    hosts = {guest.uuid: guest.host for guest in facts.guests}
    told = set()
    for record in facts.verdicts.decided.values():
        if record.id in told or record.uuid not in hosts:
            continue
        told.add(record.id)
        when = facts.time(record.started)
        who = f"{record.guest} on {record.host}"
        key = f"{record.uuid}/{record.group}"
        log = f"vmconsole runs {record.run}"
        if not record.good:
            reason = record.error or _REASONS[record.state]
            hint = record.hint or f"See its log: {log}"
            text = f"{who} was not backed up on {when}: {_sentence(reason)}"
            yield Alert(AlertKind.FAILURE, key, text, hint, record.guest, record.group)
        elif record.state is BackupState.WARNINGS:
            reason = f": {_sentence(record.error)}" if record.error else "."
            text = f"{who} was backed up on {when} with warnings{reason}"
            yield Alert(AlertKind.WARNING, key, text, f"See its log: {log}", record.guest, record.group)


_REASONS = {BackupState.FAILED: "no reason was given.", BackupState.DIED: "the run's process vanished."}


def _overdue(facts: Facts) -> Iterator[Alert]:
    for guest in facts.guests:
        for group in facts.groups_of(guest):
            if not facts.is_overdue(guest, group):
                continue
            since = facts.waiting_since(guest, group)
            assert since is not None
            limit = group.overdue_after or facts.limits[group.name]
            who = f"{guest.name} on {guest.host}"
            if facts.good(guest, group):
                text = (
                    f"{who} has had no good restore point since {facts.time(since)}; "
                    f"group {group.name} allows {duration(limit)} without one."
                )
            else:
                text = (
                    f"{who} has no restore point of group {group.name}, "
                    f"which has waited for one since {facts.time(since)}."
                )
            hint = f"Back it up now: vmconsole backup {argument(guest.name, guest.host, guest.uuid)}"
            yield Alert(AlertKind.OVERDUE, f"{guest.uuid}/{group.name}", text, hint, guest.name, group.name)


def _unprotected(facts: Facts) -> Iterator[Alert]:
    for guest in facts.guests:
        if unprotected(guest, facts.groups):
            named = argument(guest.name, guest.host, guest.uuid)
            yield Alert(
                AlertKind.UNPROTECTED,
                guest.uuid,
                f"{guest.name} on {guest.host} is in no group: nothing backs it up.",
                f"Name it in a group, or as its exception: vmconsole group add NAME --guest {named}",
                guest.name,
            )


def _repositories(facts: Facts) -> Iterator[Alert]:
    for trouble in facts.troubles:
        yield Alert(
            AlertKind.REPOSITORY,
            f"{trouble.channel}/trouble",
            f"Repository {trouble.channel}: {_sentence(trouble.problem)}",
            trouble.hint,
            trouble.channel,
        )
    for space in facts.spaces:
        if space.size and space.used_percent >= facts.nearly_full:
            yield Alert(
                AlertKind.REPOSITORY,
                f"{space.name}/space",
                f"Repository {space.name} is {space.used_percent:.0f} % full: "
                f"{size(space.free)} of {size(space.size)} are free.",
                "Make room: vmconsole prune --dry-run shows what retention would delete.",
                space.name,
            )


def _vanished(facts: Facts) -> Iterator[Alert]:
    """One for all that were noticed at once, so that more of them are news."""
    at_once: dict[tuple[str, datetime], list[Vanished]] = defaultdict(list)
    for gone in facts.vanished:
        at_once[gone.repository, gone.noticed].append(gone)
    for (repository, noticed), these in at_once.items():
        named = ", ".join(f"{item.guest} of {facts.time(item.time)}" for item in these[:_NAMED])
        more = f" and {len(these) - _NAMED} more" if len(these) > _NAMED else ""
        points = "1 restore point is" if len(these) == 1 else f"{len(these)} restore points are"
        yield Alert(
            AlertKind.VANISHED,
            f"{repository}/{noticed.astimezone(UTC).isoformat()}",
            f"{points} gone from repository {repository} that nobody here deleted: {named}{more}.",
            f"Find out who did. When it is all right: vmconsole repo accept {repository}",
            repository,
        )


def _sentence(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if one_line.endswith((".", "!", "?")) else f"{one_line}."
