"""At the end of a run: what is wrong now, and who is told. All that is needed is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from vmconsole.config.settings import Config
from vmconsole.config.when import parse_when
from vmconsole.errors import VmconsoleError
from vmconsole.interfaces import AlertStore, Channel, Clock, History, Metrics, RunStore
from vmconsole.model.calendar import newest_time
from vmconsole.model.history import BackupRecord
from vmconsole.model.ledger import Vanished
from vmconsole.model.message import Delivery, Message
from vmconsole.model.point import RestorePoint
from vmconsole.model.repository import RepositorySpace
from vmconsole.runs.alerts import Facts
from vmconsole.runs.gathering import followed_since, gather, limits_of
from vmconsole.runs.telling import DigestDue, Report, Teller
from vmconsole.runs.weekly import digest, upcoming_of


@dataclass(frozen=True, slots=True)
class Shop:
    """What alerts and digests are made from, and where they go."""

    config: Config
    store: RunStore
    history: History
    alerts: AlertStore
    clock: Clock
    channels: Sequence[Channel] = ()
    metrics: Metrics | None = None

    @property
    def teller(self) -> Teller:
        watched = [group.name for group in self.config.groups() if group.ping]
        return Teller(
            self.alerts, self.history, self.channels, self.config.notify.repeat, self.metrics, watched
        )

    def facts(
        self,
        *,
        spaces: Sequence[RepositorySpace] = (),
        troubles: Sequence[Delivery] = (),
        vanished: Sequence[Vanished] = (),
    ) -> Facts:
        """spaces: of repositories where it is known. troubles: repositories that did not work just now."""
        now, zone, groups = self.clock.now(), self.config.timezone, self.config.groups()
        return gather(
            self.store,
            self.history,
            groups,
            tuple(self.config.hosts),
            now,
            zone,
            limits=limits_of(groups, now, zone),
            followed=followed_since(groups, self.history),
            spaces=spaces,
            troubles=troubles,
            vanished=vanished,
            nearly_full=self.config.notify.nearly_full,
        )

    def digest(self, facts: Facts, since: datetime) -> Message:
        points = [point for name in self.config.repositories for point in self._points(name, since)]
        return digest(
            facts,
            self.alerts.holding(),
            self.history.since(since),
            since,
            points=points,
            upcoming=upcoming_of(facts.groups, facts.now, facts.zone),
        )

    def digest_due(self, facts: Facts) -> DigestDue | None:
        slot = newest_time(parse_when(self.config.notify.digest), facts.now, facts.zone)
        return None if slot is None else DigestDue(slot, lambda since: self.digest(facts, since))

    def _points(self, repository: str, since: datetime) -> list[RestorePoint]:
        return [point for point in self.store.points(repository) if point.time >= since]


def report_alerts(
    shop: Shop,
    *,
    finished: Sequence[BackupRecord] = (),
    pings: Sequence[Delivery] = (),
    spaces: Sequence[RepositorySpace] = (),
    troubles: Sequence[Delivery] = (),
    vanished: Sequence[Vanished] = (),
) -> tuple[Report | None, str]:
    """To be called after each run of the scheduler, also when nothing was due. Never raises VmconsoleError:
    (report, "") or (None, what went wrong).

    finished: the attempts of this run. pings: what became of its pings. The rest: as Shop.facts().
    """
    try:
        facts = shop.facts(spaces=spaces, troubles=troubles, vanished=vanished)
        return shop.teller.report(facts, finished=finished, pings=pings, digest=shop.digest_due(facts)), ""
    except VmconsoleError as error:
        return None, error.message
