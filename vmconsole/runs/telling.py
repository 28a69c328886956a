"""Tell those who are not looking: what is new, what still holds after a while, what is over."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vmconsole.interfaces import AlertStore, Channel, History, Metrics
from vmconsole.model.alert import Alert, AlertKind
from vmconsole.model.history import BackupRecord
from vmconsole.model.message import Delivery, Message
from vmconsole.model.point import iso
from vmconsole.runs.alerts import FOUND_HERE, Facts, holding_now
from vmconsole.runs.gathering import figures
from vmconsole.runs.wording import alert_message

_TOLD_WHEN_OVER = (AlertKind.FAILURE, AlertKind.OVERDUE)
_WEEK = timedelta(days=7)
_EARLY = 0.95
"""Of repeat: nightly runs are never exactly a day apart, and every second night is not every night."""

_REST = timedelta(minutes=10)
"""A channel that just failed is left alone for so long: the scheduler looks every minute, a dead server hangs."""


@dataclass(frozen=True, slots=True)
class DigestDue:
    """slot: the newest time, not after now, that the digest's rule names. write: the text of all since a moment."""

    slot: datetime
    write: Callable[[datetime], Message]


@dataclass(frozen=True, slots=True)
class Report:
    """holding, ended: alerts. deliveries: every attempt to tell somebody, and what became of it."""

    holding: tuple[Alert, ...]
    ended: tuple[Alert, ...]
    deliveries: tuple[Delivery, ...]

    @property
    def broken(self) -> list[Alert]:
        """Ways to tell that do not work; to be shown to whoever is looking."""
        return [alert for alert in self.holding if alert.kind is AlertKind.CHANNEL]


@dataclass(frozen=True, slots=True)
class Teller:
    """repeat: seconds after which what still holds is told again."""

    alerts: AlertStore
    history: History
    channels: Sequence[Channel]
    repeat: float
    metrics: Metrics | None = None
    pings: Collection[str] = ()
    """Groups that have a watchdog."""

    @property
    def ways(self) -> list[str]:
        """All ways in which somebody, or something, is told; named as in deliveries."""
        names = [channel.name for channel in self.channels]
        names += ["metrics"] if self.metrics is not None else []
        return names + [f"ping {group}" for group in self.pings]

    def report(
        self,
        facts: Facts,
        *,
        finished: Sequence[BackupRecord] = (),
        pings: Sequence[Delivery] = (),
        digest: DigestDue | None = None,
    ) -> Report:
        """Bring alerts up to date and tell what is to be told now. To be called after each run of the scheduler.

        finished: the attempts of this run, for channels that want to hear of success. pings: what became of this
        run's pings. Raises only what the state database raises.
        """
        ended = self.alerts.update(holding_now(facts), FOUND_HERE)
        self.note_deliveries(pings)
        done = list(self._tell(facts, ended, finished))
        if digest is not None:
            done += self._digest(facts.now, digest)
        self.note_deliveries(done)
        # of a channel that broke just now the others hear at once
        done += self._tell(facts, [], [], [delivery.channel for delivery in done if not delivery.ok])
        if self.metrics is not None:
            done.append(self.metrics.write(figures(facts, self.alerts.holding())))
        self.note_deliveries(done)
        return Report(tuple(self.alerts.holding()), tuple(ended), (*pings, *done))

    def note_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """Ways that failed are alerts until they work, or are not configured any more."""
        broken = {
            alert.key: alert
            for alert in self.alerts.holding()
            if alert.kind is AlertKind.CHANNEL and alert.key in self.ways
        }
        for delivery in deliveries:
            self._note_failure(delivery)
            broken.pop(delivery.channel, None)
            if not delivery.ok:
                broken[delivery.channel] = _channel_alert(delivery)
        self.alerts.update(list(broken.values()), {AlertKind.CHANNEL})

    def send_digest(self, message: Message) -> list[Delivery]:
        """At the operator's wish, to all channels that take digests; the next one comes when it is due."""
        done = [channel.send(message) for channel in self.channels if "digest" in channel.on]
        self.note_deliveries(done)
        return done

    def _tell(
        self,
        facts: Facts,
        ended: Sequence[Alert],
        finished: Sequence[BackupRecord],
        without: Collection[str] = (),
    ) -> list[Delivery]:
        """One message for each channel that has something to hear. without: channels that just failed."""
        holding = self.alerts.holding()
        again = facts.now - timedelta(seconds=self.repeat * _EARLY)
        due = {_id(alert) for alert in holding if alert.sent is None or alert.sent <= again}
        good = finished if finished and all(record.good for record in finished) else ()
        told: dict[tuple[str, str], Alert] = {}
        done = []
        for channel in self.channels:
            if channel.name in without or self._rests(channel, facts.now):
                continue
            missed = self._missed(channel.name)
            mine = [a for a in holding if _wants(channel, a) and (_id(a) in due or _id(a) in missed)]
            over = [
                _over(alert, facts)
                for alert in ended
                if alert.kind in _TOLD_WHEN_OVER and alert.sent and _wants(channel, alert)
            ]
            message = alert_message(
                mine, over, good if "success" in channel.on else (), facts.now, facts.zone
            )
            if message is None:
                continue
            delivery = channel.send(message)
            done.append(delivery)
            if delivery.ok:
                told.update({_id(alert): alert for alert in mine})
            self._remember_missed(channel.name, missed, [] if delivery.ok else mine)
        self.alerts.sent(list(told.values()))
        return done

    def _note_failure(self, delivery: Delivery) -> None:
        key = f"failed/{delivery.channel}"
        if not delivery.ok or self.history.noted(key):
            self.history.note(key, delivery.problem)

    def _rests(self, channel: Channel, now: datetime) -> bool:
        noted = self.history.noted(f"failed/{channel.name}")
        return noted is not None and bool(noted[0]) and now - _REST < noted[1] < now

    def _missed(self, channel: str) -> set[tuple[str, str]]:
        """What a channel did not take when it was to be told there."""
        noted = self.history.noted(f"missed/{channel}")
        try:
            return {(str(kind), str(key)) for kind, key in json.loads(noted[0])} if noted else set()
        except (ValueError, TypeError):
            return set()

    def _remember_missed(self, channel: str, before: set[tuple[str, str]], now: Sequence[Alert]) -> None:
        missed = {_id(alert) for alert in now}
        if missed != before:
            self.history.note(f"missed/{channel}", json.dumps(sorted(missed)))

    def _digest(self, now: datetime, digest: DigestDue) -> list[Delivery]:
        """Once for each due time and channel. A channel that is new waits for the first time that comes."""
        done = []
        for channel in self.channels:
            if "digest" not in channel.on or self._rests(channel, now):
                continue
            key = f"digest/{channel.name}"
            last = _moment(self.history.noted(key))
            if last is None:
                self.history.note(key, iso(digest.slot))
                continue
            if last >= digest.slot:
                continue
            delivery = channel.send(digest.write(max(last, now - 5 * _WEEK)))
            if delivery.ok:
                self.history.note(key, iso(digest.slot))
            done.append(delivery)
        return done


def _wants(channel: Channel, alert: Alert) -> bool:
    """That another way to tell does not work is told everywhere."""
    if alert.kind is AlertKind.CHANNEL:
        return alert.key != channel.name
    return alert.kind.value in channel.on


def _over(alert: Alert, facts: Facts) -> str:
    """Honest about why: a backup that was made, or a guest or limit that is another now."""
    uuid = alert.key.partition("/")[0]
    about = alert.subject + (f" (group {alert.group})" if alert.group else "")
    since = f" since {facts.time(alert.since)}" if alert.since else ""
    what = "overdue" if alert.kind is AlertKind.OVERDUE else "failing"
    good = [record for (owner, _), record in facts.latest_good.items() if owner == uuid]
    newest = max((record.ended or record.started for record in good), default=None)
    if newest is not None and (alert.since is None or newest > alert.since):
        return f"✓ {about} is backed up again, on {facts.time(newest)}; it was {what}{since}."
    return f"– {about} was {what}{since}; that no longer applies."


def _channel_alert(delivery: Delivery) -> Alert:
    name = delivery.channel
    what = name if name == "metrics" or name.startswith("ping ") else f"Channel {name}"
    return Alert(
        AlertKind.CHANNEL,
        name,
        f"{what[0].upper()}{what[1:]} does not work: {delivery.problem}",
        delivery.hint,
        name,
    )


def _id(alert: Alert) -> tuple[str, str]:
    return alert.kind.value, alert.key


def _moment(noted: tuple[str, datetime] | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(noted[0]) if noted else None
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
