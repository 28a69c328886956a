"""Repositories as the console lists them: what is remembered of them, and what they say when they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from vmconsole.config.schema import RepositoryConfig
from vmconsole.config.settings import Config
from vmconsole.errors import (
    RepositoryLocked,
    RepositoryMissing,
    VmconsoleError,
    WrongPassphrase,
)
from vmconsole.front.services import Services
from vmconsole.model.alert import AlertKind
from vmconsole.model.ledger import Vanished
from vmconsole.model.repository import RepositoryInfo, RepositorySpace
from vmconsole.model.run import Run, RunState
from vmconsole.model.words import size
from vmconsole.runs.looking import LOCK_PATIENCE, Memory, live_marks, remember
from vmconsole.tui.picture import Picture
from vmconsole.tui.states import State

GROWTH_DAYS = 90
_RUNS = 2000
"""Runs that are looked through for the last check."""
KINDS = ("check", "compact", "prune")
"""Of runs that are about one repository alone."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered of one repository. pruned: marked, and not deleted yet. added: bytes its backups
    added, day by day, the oldest first. original: of all points' disks, as their guests see them.
    """

    points: int = 0
    guests: int = 0
    pruned: int = 0
    pinned: int = 0
    original: int = 0
    stored: int = 0
    space: RepositorySpace | None = None
    vanished: tuple[Vanished, ...] = ()
    check: Run | None = None
    last: Run | None = None
    """The newest run that was about it alone."""
    added: tuple[tuple[date, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a repository said when it was asked. error: what was wrong; info is then what it said before."""

    when: datetime
    info: RepositoryInfo | None = None
    error: VmconsoleError | None = None


@dataclass(frozen=True, slots=True)
class RepositoryRow:
    """One repository. word: its state in one word; why, fix: as of a guest."""

    name: str
    settings: RepositoryConfig
    state: State
    word: str
    why: str = ""
    fix: str = ""
    known: Known = field(default_factory=Known)
    answer: Answer | None = None
    asking: datetime | None = None
    """Since when it is being asked."""

    @property
    def info(self) -> RepositoryInfo | None:
        return self.answer.info if self.answer else None

    @property
    def stored(self) -> int:
        """Bytes on disk: its own word, or what its backups added as far as that is remembered."""
        return self.info.stored if self.info else self.known.stored

    @property
    def original(self) -> int:
        return self.info.original if self.info else self.known.original

    @property
    def factor(self) -> float | None:
        """How many bytes of guests one stored byte stands for."""
        return self.original / self.stored if self.stored else None


def read_known(services: Services, now: datetime) -> dict[str, Known]:
    """Of all repositories, by name; none of them is asked. Blocks. Raises VmconsoleError."""
    config = services.config
    runs = [run for run in services.store.runs(_RUNS) if run.kind in KINDS]
    added = _added(services, now, config)
    return {
        name: _known(name, services, runs, added.get(name, {}), now.astimezone(config.timezone).date())
        for name in config.repositories
    }


def _known(name: str, services: Services, runs: Sequence[Run], added: dict[date, int], today: date) -> Known:
    points = services.store.points(name)
    live = live_marks(services.ledger.marks(name), points)
    kept = [point for point in points if point.archive not in live]
    own = [run for run in runs if run.subject.partition(",")[0] == name]
    first = min(added, default=today)
    days = [first + timedelta(number) for number in range((today - first).days + 1)]
    return Known(
        len(kept),
        len({point.uuid for point in kept}),
        len(live),
        sum(point.pinned for point in kept),
        sum(point.size for point in points),
        sum(point.total("bytes_stored") for point in points),
        services.space(name),
        tuple(services.ledger.vanished(name)),
        next((run for run in own if run.kind == "check"), None),
        next(iter(own), None),
        tuple((day, added.get(day, 0)) for day in days),
    )


def _added(services: Services, now: datetime, config: Config) -> dict[str, dict[date, int]]:
    found: dict[str, dict[date, int]] = {}
    for record in services.history.since(now - timedelta(days=GROWTH_DAYS)):
        if record.good:
            days = found.setdefault(record.repository, {})
            day = record.started.astimezone(config.timezone).date()
            days[day] = days.get(day, 0) + record.bytes_stored
    return found


def ask(services: Services, name: str, before: Answer | None) -> Answer:
    """Open it, see what it holds, and remember that; then its own figures. Blocks, for minutes maybe."""
    known = before.info if before else None
    try:
        repository = services.repository(name)
        with repository.reader(wait=LOCK_PATIENCE) as reader:
            remember(name, reader.points(), Memory(services.store, services.ledger))
        return Answer(services.clock.now(), repository.info())
    except VmconsoleError as error:
        return Answer(services.clock.now(), known, error)


def row_of(
    name: str,
    settings: RepositoryConfig,
    known: Known,
    picture: Picture,
    answer: Answer | None = None,
    asking: datetime | None = None,
) -> RepositoryRow:
    state, word, why, fix = _judge(name, known, picture, answer)
    return RepositoryRow(name, settings, state, word, why, fix, known, answer, asking)


def _judge(name: str, known: Known, picture: Picture, answer: Answer | None) -> tuple[State, str, str, str]:
    """(state, word, why, fix): the worst first."""
    error = answer.error if answer else None
    if error is not None and not isinstance(error, RepositoryLocked):
        word = "missing" if isinstance(error, RepositoryMissing) else "no answer"
        if isinstance(error, WrongPassphrase):
            word = "no key"
        return State.FAILED, word, error.message, error.hint
    if known.vanished:
        count = len(known.vanished)
        points = "1 restore point is" if count == 1 else f"{count} restore points are"
        return (
            State.FAILED,
            "vanished",
            f"{points} gone that nobody here deleted. Nothing is compacted until that is accepted.",
            "Find out who did it; when it is all right, a accepts it",
        )
    check = known.check
    if check is not None and check.state in (RunState.FAILED, RunState.WARNINGS):
        return (
            State.FAILED,
            "damaged",
            f"The last check: {check.error or 'it found problems'}",
            "l shows its log; read before you repair: borg check --help",
        )
    for alert in picture.alerts:
        if alert.kind is AlertKind.REPOSITORY and alert.subject == name and alert.key != f"{name}/space":
            return State.FAILED, "trouble", alert.text, alert.hint
    if known.space is not None and known.space.size and picture.config is not None:
        limit = picture.config.notify.nearly_full
        if known.space.used_percent >= limit:
            free = f"{size(known.space.free)} of {size(known.space.size)} are free"
            fix = "p shows what the rules would let go, c frees what was pruned"
            return State.LATE, "nearly full", f"{known.space.used_percent:.0f} % full: {free}.", fix
    if error is not None:
        return State.RUNNING, "in use", f"{error.message} Its figures are as last seen.", "R asks again"
    if not known.points:
        return State.NEVER, "empty", "It holds no restore point yet.", "1 goes to Guests, b there makes one"
    return State.OK, "ok", "", ""


def passphrase_source(settings: RepositoryConfig) -> str:
    """Where it comes from; never what it is."""
    secret = settings.passphrase
    if settings.encryption == "none":
        return "none is needed: it is not encrypted"
    if secret is None:
        return "not configured: BORG_PASSPHRASE or BORG_PASSCOMMAND"
    if secret.file is not None:
        return f"file {secret.file}"
    if secret.command is not None:
        return f"what {secret.command[0]} prints"
    for name, words in (
        ("env", "environment variable"),
        ("credential", "systemd credential"),
        ("keyring", "keyring"),
    ):
        if (value := getattr(secret, name)) is not None:
            return f"{words} {value}"
    return "not configured"


def pace(added: Sequence[tuple[date, int]]) -> float:
    """Bytes a day."""
    return sum(count for _, count in added) / len(added) if added else 0.0


def days_left(known: Known) -> float | None:
    """How long the free space lasts at the pace of the last days; None when that is not known."""
    a_day = pace(known.added)
    if known.space is None or not known.space.size or a_day <= 0 or len(known.added) < 7:
        return None
    return known.space.free / a_day
