from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from vmconsole.interfaces import AlertStore
from vmconsole.model.alert import Alert, AlertKind
from vmconsole.state.alerts import StateAlerts
from vmconsole.state.store import StateStore

FAILED = Alert(AlertKind.FAILURE, "u1/daily", "web failed.", "Do this.", "web", "daily")
LATE = Alert(AlertKind.OVERDUE, "u1/daily", "web is overdue.")
ALL = tuple(AlertKind)


@pytest.fixture
def alerts(store: StateStore, clock: Any) -> AlertStore:
    return StateAlerts(store.database, clock)


def test_since_is_kept_and_words_are_renewed(alerts: AlertStore, clock: Any) -> None:
    first = clock.now()
    assert alerts.update([FAILED, LATE], ALL) == []
    clock.seconds = 60
    assert alerts.update([replace(FAILED, text="web failed twice."), LATE], ALL) == []
    by_kind = {alert.kind: alert for alert in alerts.holding()}
    assert by_kind[AlertKind.FAILURE] == replace(FAILED, text="web failed twice.", since=first)
    assert by_kind[AlertKind.OVERDUE] == replace(LATE, since=first)


def test_sent_is_kept_across_updates(alerts: AlertStore, clock: Any) -> None:
    alerts.update([FAILED], ALL)
    clock.seconds = 5
    alerts.sent(alerts.holding())
    clock.seconds = 60
    alerts.update([replace(FAILED, hint="Do that.")], ALL)
    (held,) = alerts.holding()
    assert (held.sent, held.hint) == (clock.now() - timedelta(seconds=55), "Do that.")


def test_what_is_not_found_again_ends(alerts: AlertStore, clock: Any) -> None:
    alerts.update([FAILED, LATE], ALL)
    alerts.sent([LATE])
    clock.seconds = 60
    (ended,) = alerts.update([FAILED], ALL)
    assert (ended.kind, ended.ended) == (AlertKind.OVERDUE, clock.now())
    assert ended.sent == clock.now() - timedelta(seconds=60)
    assert [alert.kind for alert in alerts.holding()] == [AlertKind.FAILURE]
    assert alerts.update([FAILED], ALL) == []


def test_kinds_that_were_not_looked_for_stay(alerts: AlertStore) -> None:
    alerts.update([FAILED, LATE], ALL)
    assert alerts.update([LATE], [AlertKind.OVERDUE]) == []
    assert alerts.update([FAILED], [AlertKind.OVERDUE])[0].kind is AlertKind.OVERDUE
    assert [alert.kind for alert in alerts.holding()] == [AlertKind.FAILURE]


def test_one_that_holds_again_is_new(alerts: AlertStore, clock: Any) -> None:
    alerts.update([FAILED], ALL)
    alerts.sent([FAILED])
    alerts.update([], ALL)
    clock.seconds = 60
    alerts.update([FAILED], ALL)
    assert alerts.holding() == [replace(FAILED, since=clock.now())]


def test_many_at_once_and_names_as_they_are(alerts: AlertStore) -> None:
    many = [Alert(AlertKind.UNPROTECTED, f"u{n}", f"it's \x1b[2J 'n' \u202e {n}") for n in range(450)]
    alerts.update(many, ALL)
    alerts.sent(alerts.holding())
    held = alerts.holding()
    assert len(held) == 450
    assert all(alert.sent for alert in held)
    assert {alert.text for alert in held} == {alert.text for alert in many}


def test_a_key_longer_than_the_column(alerts: AlertStore) -> None:
    long = replace(FAILED, key="k" * 500)
    alerts.update([long], ALL)
    alerts.sent([long])
    alerts.update([long], ALL)
    (held,) = alerts.holding()
    assert held.sent is not None


def test_another_process_sees_them(open_store: Callable[..., StateStore], clock: Any) -> None:
    one, other = (StateAlerts(open_store(name).database, clock) for name in ("here:1:1", "here:2:2"))
    one.update([FAILED], ALL)
    other.sent(other.holding())
    assert other.update([], ALL)[0].text == FAILED.text
    assert one.holding() == []
