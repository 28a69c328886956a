"""What the scheduler calls at its end, on a real configuration and a state database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alert_world import HOUR, NOW, Post, guest

from vmconsole.config.load import parse
from vmconsole.model.alert import AlertKind
from vmconsole.model.guest import HostInventory, HostKind
from vmconsole.model.history import BackupRecord, BackupState
from vmconsole.runs.gathering import limits_of
from vmconsole.runs.reporting import Shop, report_alerts
from vmconsole.runs.weekly import Upcoming, upcoming_of
from vmconsole.state.alerts import StateAlerts
from vmconsole.state.history import StateHistory
from vmconsole.state.store import StateStore

CONFIG = """\
timezone = "Europe/Berlin"
state_dir = "state"

[hosts.kvm1]
kind = "libvirt"
address = "root@kvm1.example"

[repositories.main]
location = "repository"
encryption = "none"

[groups.nightly]
guests = ["web"]
when = "daily 22:00"

[groups.often]
guests = ["db"]
[groups.often.schedules.hours]
when = "every 4 h"
[groups.often.schedules.sunday]
when = "sunday 03:00"

[groups.paused]
guests = ["old"]
when = "daily 12:00"
paused = true
"""


class Clock:
    def __init__(self):
        self.time = NOW

    def now(self):
        return self.time

    def monotonic(self):
        return self.time.timestamp()


@pytest.fixture
def shop(tmp_path):
    clock = Clock()
    store = StateStore.open(tmp_path / "state.sqlite", clock, "here:1:1", lambda process: False)
    database = store.database
    guests = tuple(guest(name, number) for number, name in enumerate(("web", "db", "old"), 1))
    store.save_inventory(HostInventory("kvm1", HostKind.LIBVIRT, reachable=True, guests=guests), NOW)
    yield Shop(
        parse(Path("/x/config.toml"), CONFIG.encode()),
        store,
        StateHistory(database, clock, lambda process: False),
        StateAlerts(database, clock),
        clock,
        [Post("mail")],
    )
    store.close()


def back_up(shop, name, state=BackupState.DONE, group="nightly"):
    made = next(g for g in shop.store.inventories()["kvm1"][0].guests if g.name == name)
    now = shop.clock.now()
    run = shop.store.start_run("backup", f"group {group}").id
    record = BackupRecord(0, run, made.uuid, name, "kvm1", "main", now, group=group)
    number = shop.history.begin(record)
    shop.history.end(replace(record, id=number, state=state, ended=now, error="No." * (not record.good)))
    return shop.history.of_run(run)


def told(shop):
    got = [message.title for message in shop.channels[0].got]
    shop.channels[0].got.clear()
    return got


def test_limits_follow_the_closest_schedule_and_paused_groups_have_none(shop):
    limits = limits_of(shop.config.groups(), NOW, UTC)
    assert limits == {"nightly": pytest.approx(26.4 * 3600), "often": pytest.approx(6 * 3600)}


def test_nothing_runs_for_days(shop):
    assert report_alerts(shop)[0].holding == ()
    shop.clock.time += 7 * HOUR
    report_alerts(shop)
    assert told(shop) == ["vmconsole: 1 guest overdue"]
    shop.clock.time += 20 * HOUR
    report, _ = report_alerts(shop)
    assert told(shop) == ["vmconsole: 1 guest overdue"]  # the other one, for the first time
    assert {alert.subject for alert in report.holding} == {"web", "db"}
    report_alerts(shop, finished=[*back_up(shop, "web"), *back_up(shop, "db", group="often")])
    assert told(shop) == ["vmconsole: 2 over"]


def test_a_rule_made_closer_is_given_its_time(shop):
    report_alerts(shop)
    back_up(shop, "web")
    back_up(shop, "db", group="often")
    shop.clock.time += 20 * HOUR
    back_up(shop, "db", group="often")
    closer = parse(Path("/x/config.toml"), CONFIG.replace("daily 22:00", "every 2 h").encode())
    closer_shop = replace(shop, config=closer)
    assert report_alerts(closer_shop)[0].holding == ()
    shop.clock.time += 5 * HOUR
    report, _ = report_alerts(closer_shop)
    assert [(alert.kind, alert.subject) for alert in report.holding] == [(AlertKind.OVERDUE, "web")]


def test_the_digest_comes_on_monday_morning(shop):
    report_alerts(shop)
    monday = datetime(2026, 11, 30, 7, 0, tzinfo=UTC)  # 08:00 in Berlin
    for moment in (monday - timedelta(minutes=1), monday, monday + HOUR):
        shop.clock.time = moment
        back_up(shop, "web")
        back_up(shop, "db", group="often")
        report_alerts(shop)
    (message,) = shop.channels[0].got
    assert message.title == "vmconsole digest: 2 of 3 guests protected"
    assert "Period: 2026-11-23 08:00 to 2026-11-30 08:00" in message.body
    assert "Next: often/hours 2026-11-30 12:00, nightly 2026-11-30 22:00, often/sunday" in message.body
    assert "Paused: paused" in message.body


def test_what_comes_next(shop):
    zone = shop.config.timezone
    assert upcoming_of(shop.config.groups(), NOW, zone) == [
        Upcoming("nightly", "", datetime(2026, 11, 23, 21, tzinfo=UTC)),
        Upcoming("often", "hours", datetime(2026, 11, 23, 11, tzinfo=UTC)),
        Upcoming("often", "sunday", datetime(2026, 11, 29, 2, tzinfo=UTC)),
        Upcoming("paused", "", None),
    ]
