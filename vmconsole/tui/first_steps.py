"""From nothing to a first backup: the steps, and how far they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from vmconsole.errors import HostKeyChanged, VmconsoleError
from vmconsole.front.services import Services
from vmconsole.model.words import duration
from vmconsole.tui.host_rows import Checked, key_changed
from vmconsole.tui.picture import Picture
from vmconsole.tui.states import State

KIT = "kit-copied/"
"""Under this and the repository's name it is noted that its recovery kit was copied."""


class Id(Enum):
    HOST = "host"
    KEY = "key"
    CHECK = "check"
    REPOSITORY = "repository"
    KIT = "kit"
    GROUP = "group"
    BACKUP = "backup"


TITLES: Mapping[Id, str] = {
    Id.HOST: "a host",
    Id.KEY: "its key",
    Id.CHECK: "its checks",
    Id.REPOSITORY: "a repository",
    Id.KIT: "the recovery kit",
    Id.GROUP: "a group",
    Id.BACKUP: "the first backup",
}
SKIPPABLE = (Id.CHECK, Id.KIT, Id.GROUP)


@dataclass(frozen=True, slots=True)
class Step:
    """state: OK done, LATE to be done now, RUNNING, OFF left out, FAILED, or QUEUED for later. said: how it is."""

    id: Id
    state: State
    word: str
    said: str = ""
    hint: str = ""

    @property
    def open(self) -> bool:
        """Whether it can be taken now."""
        return self.state in (State.LATE, State.FAILED)


@dataclass(frozen=True, slots=True)
class Known:
    """What the steps are judged by, besides the picture. copied: repositories whose kit was confirmed."""

    failures: Mapping[str, VmconsoleError]
    asking: frozenset[str]
    checked: Mapping[str, Checked]
    checking: frozenset[str]
    copied: frozenset[str]
    skipped: frozenset[Id]


def is_empty(picture: Picture) -> bool:
    """Whether the first steps are still to be made: no configuration, or no host, repository or group in it."""
    config = picture.config
    return config is None or not (config.hosts and config.repositories and config.file.groups)


def is_broken(picture: Picture, services: Services) -> bool:
    """Whether there is a configuration that cannot be used; a missing one is no mistake."""
    return picture.problem is not None and services.config_path.exists()


def first_host(picture: Picture) -> str:
    """The one that the steps are about; empty when there is none."""
    return next(iter(picture.config.hosts), "") if picture.config else ""


def first_repository(picture: Picture) -> str:
    return next(iter(picture.config.repositories), "") if picture.config else ""


def steps(picture: Picture, known: Known) -> tuple[Step, ...]:
    """In their order; the first that is not done is the one for now."""
    host, repository = first_host(picture), first_repository(picture)
    found = [
        _host(picture, host),
        _key(picture, host, known),
        _check(picture, host, known),
        _repository(picture, repository),
        _kit(picture, repository, known),
        _group(picture),
        _backup(picture),
    ]
    result: list[Step] = []
    waiting = False
    for step in found:
        if step.state is State.LATE and step.id in known.skipped:
            result.append(Step(step.id, State.OFF, "skipped", "Left out; s takes it up again.", step.hint))
        elif step.state in (State.LATE, State.QUEUED) and waiting and step.id is not Id.REPOSITORY:
            result.append(Step(step.id, State.QUEUED, "later", step.said, step.hint))
        else:
            result.append(step)
        waiting = waiting or result[-1].state in (State.LATE, State.FAILED, State.RUNNING, State.QUEUED)
    return tuple(result)


def _now(id: Id, said: str, hint: str = "") -> Step:
    return Step(id, State.LATE, "now", said, hint)


def _done(id: Id, said: str) -> Step:
    return Step(id, State.OK, "done", said)


def _host(picture: Picture, host: str) -> Step:
    if not host or picture.config is None:
        return _now(Id.HOST, "A hypervisor that is reached over SSH: Proxmox VE, or KVM with libvirt.")
    settings = picture.config.host(host)
    return _done(Id.HOST, f"{host}: {settings.kind} at {settings.address}")


def _key(picture: Picture, host: str, known: Known) -> Step:
    failure = known.failures.get(host)
    if not host:
        return Step(Id.KEY, State.QUEUED, "later", "Its fingerprint is shown, compared, and trusted.")
    if host in known.asking:
        return Step(Id.KEY, State.RUNNING, "asking", f"{host} is being asked.")
    if isinstance(failure, HostKeyChanged):
        word = "changed" if key_changed(failure) else "now"
        state = State.FAILED if key_changed(failure) else State.LATE
        return Step(Id.KEY, state, word, failure.message, "Enter shows it, and what to compare.")
    if failure is not None:
        return Step(Id.KEY, State.FAILED, "no answer", failure.message, failure.hint)
    if host in picture.hosts:
        return _done(Id.KEY, f"{host} is trusted, and answers.")
    return _now(Id.KEY, "Its fingerprint is shown, compared, and trusted.")


def _check(picture: Picture, host: str, known: Known) -> Step:
    checked = known.checked.get(host)
    if host and host in known.checking:
        return Step(Id.CHECK, State.RUNNING, "checking", f"{host} is being checked.")
    if checked is None:
        if any(row.good for row in picture.guests if row.guest.host == host):
            return _done(Id.CHECK, "Its guests have been backed up.")
        return _now(Id.CHECK, "What is missing for backups, and the command that fixes it.")
    if checked.error:
        return Step(Id.CHECK, State.FAILED, "failed", checked.error, checked.hint)
    if checked.stops:
        count = len(checked.failing)
        return Step(
            Id.CHECK, State.FAILED, "missing", f"{count} of {len(checked.checks)} checks found something."
        )
    if checked.failing:
        return _done(Id.CHECK, "Backups work, but could work better.")
    return _done(Id.CHECK, f"All {len(checked.checks)} checks are well.")


def _repository(picture: Picture, name: str) -> Step:
    if not name or picture.config is None:
        return _now(Id.REPOSITORY, "Where restore points go: a folder, or another machine with Borg.")
    return _done(Id.REPOSITORY, f"{name}: {picture.config.repository(name).location}")


def _kit(picture: Picture, name: str, known: Known) -> Step:
    if name and picture.config and picture.config.repository(name).encryption == "none":
        return _done(Id.KIT, "It is not encrypted: its location is all that is needed.")
    if name and name in known.copied:
        return _done(Id.KIT, "You said that you have copied it.")
    said = "What is needed to restore when this machine is gone: copy it to a second place."
    return _now(Id.KIT, said) if name else Step(Id.KIT, State.QUEUED, "later", said)


def _group(picture: Picture) -> Step:
    if not picture.groups:
        return _now(Id.GROUP, "Which guests, when, and how long to keep.")
    group = picture.groups[0]
    when = ", ".join(schedule.text for schedule in group.schedules) or "nothing is scheduled"
    return _done(Id.GROUP, f"{group.name}: {when}")


def _backup(picture: Picture) -> Step:
    good = [row for row in picture.guests if row.good]
    if any(run.kind == "backup" for run in picture.running):
        return Step(Id.BACKUP, State.RUNNING, "running", "It is happening now; 3 shows how far.")
    failed = [row for row in picture.guests if row.state is State.FAILED]
    if failed:
        said = (
            f"{len(failed)} of {len(picture.guests)} guests failed. {failed[0].guest.name}: {failed[0].why}"
        )
        return Step(
            Id.BACKUP, State.FAILED, "failed", said, "1 shows all, l there the log. Enter tries again."
        )
    if good:
        count = f"{len(good)} of {len(picture.guests)} guests have a restore point"
        newest = max((row.good for row in good if row.good), key=lambda record: record.started)
        since = duration((picture.now - newest.started).total_seconds())
        return _done(Id.BACKUP, f"{count}, the newest {since} old.")
    last = next((run for run in picture.runs if run.kind == "backup"), None)
    if last is not None and last.error:
        return Step(Id.BACKUP, State.FAILED, "failed", last.error, "3 shows its log. Enter tries again.")
    return _now(Id.BACKUP, "All guests of the group, now.")
