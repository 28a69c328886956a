"""Alerts that hold, and those that are over."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, and_, insert, or_, select, update

from vmconsole.interfaces import Clock
from vmconsole.model.alert import Alert, AlertKind
from vmconsole.state.engine import Database
from vmconsole.state.tables import alerts, to_moment, to_number

_LONGEST_KEY = 200
_MOST_AT_ONCE = 200


class StateAlerts:
    """Implements interfaces.AlertStore. Every call may raise VmconsoleError: disk full, locked, damaged."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def holding(self) -> list[Alert]:
        with self._database.reading() as connection:
            return _holding(connection)

    def update(self, found: Sequence[Alert], kinds: Collection[AlertKind]) -> list[Alert]:
        now = to_number(self._clock.now())
        wanted = {_identity(alert): alert for alert in found if alert.kind in kinds}
        with self._database.writing() as connection:
            open_ones = {_identity(alert): alert for alert in _holding(connection) if alert.kind in kinds}
            ended = [alert for identity, alert in open_ones.items() if identity not in wanted]
            for alert in ended:
                connection.execute(update(alerts).where(_is(alert)).values(ended=now))
            for identity, alert in wanted.items():
                if identity not in open_ones:
                    _open(connection, alert, now)
                elif _words(alert) != _words(open_ones[identity]):
                    connection.execute(update(alerts).where(_is(alert)).values(**_words(alert)))
        return [replace(alert, ended=to_moment(now)) for alert in ended]

    def sent(self, told: Sequence[Alert]) -> None:
        now = to_number(self._clock.now())
        with self._database.writing() as connection:
            for start in range(0, len(told), _MOST_AT_ONCE):
                these = or_(*(_is(alert) for alert in told[start : start + _MOST_AT_ONCE]))
                connection.execute(update(alerts).where(these).values(sent=now))


def _holding(connection: Connection) -> list[Alert]:
    rows = connection.execute(
        select(alerts).where(alerts.c.ended.is_(None)).order_by(alerts.c.since, alerts.c.kind, alerts.c.key)
    ).all()
    return [alert for alert in map(_from_row, rows) if alert is not None]


def _open(connection: Connection, alert: Alert, now: int) -> None:
    """A row of its own, or that of an alert like it that was over."""
    values = _words(alert) | {"since": now, "sent": None, "ended": None}
    if connection.execute(update(alerts).where(_is(alert)).values(**values)).rowcount == 0:
        kind, key = _identity(alert)
        connection.execute(insert(alerts).values(kind=kind, key=key, **values))


def _from_row(row: Row[Any]) -> Alert | None:
    """None for a kind that another version knows."""
    try:
        kind = AlertKind(row.kind)
    except ValueError:
        return None
    values = row._mapping
    return Alert(
        kind,
        row.key,
        row.text,
        row.hint,
        row.subject,
        values["group"],
        since=to_moment(row.since),
        sent=None if row.sent is None else to_moment(row.sent),
        ended=None if row.ended is None else to_moment(row.ended),
    )


def _words(alert: Alert) -> dict[str, Any]:
    return {"text": alert.text, "hint": alert.hint, "subject": alert.subject, "group": alert.group}


def _identity(alert: Alert) -> tuple[str, str]:
    return alert.kind.value, alert.key[:_LONGEST_KEY]


def _is(alert: Alert) -> Any:
    kind, key = _identity(alert)
    return and_(alerts.c.kind == kind, alerts.c.key == key)
