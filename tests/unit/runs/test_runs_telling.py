from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from alert_world import ALL, DAY, HOUR, NOW, World, guest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.model.alert import AlertKind
from vmconsole.model.group import Group, Selector
from vmconsole.model.history import BackupState
from vmconsole.model.message import Delivery, Message, Tone
from vmconsole.model.point import Consistency, RestorePoint
from vmconsole.model.repository import RepositorySpace
from vmconsole.runs.telling import DigestDue
from vmconsole.runs.weekly import Upcoming, digest

FAILED = BackupState.FAILED


@pytest.fixture
def world():
    made = World()
    made.good_night(ago=DAY)
    return made


def fail(world, **values):
    world.history.add(world.web, FAILED, error="The disk is full.", hint="Make room.", **values)


def test_quiet_when_all_is_well(world):
    report = world.report(finished=world.good_night())
    assert (report.holding, report.deliveries) == ((), ())
    assert world.mail.got == world.chat.got == []


def test_a_failure_is_told_once_then_again_after_a_day_then_over(world):
    fail(world)
    world.report()
    (message,) = world.mail.take()
    assert message == Message(
        "vmconsole: 1 backup failed",
        "✗ web on kvm1 was not backed up on 2026-11-23 07:00: The disk is full.\n  → Make room.",
        Tone.BAD,
    )
    world.now += HOUR
    world.report()
    assert world.mail.take() == []
    world.now += 24 * HOUR
    world.history.add(world.db)
    world.history.add(world.web, FAILED, error="The disk is full.")
    world.report()
    (again,) = world.mail.take()
    assert "(since 2026-11-23 08:00, 1 d 1 h)" in again.body
    world.now += HOUR
    world.history.add(world.web, ago=timedelta(minutes=10))
    world.report()
    (over,) = world.mail.take()
    assert over.body.splitlines() == [
        "✓ web (group daily) is backed up again, on 2026-11-24 09:55; it was failing since 2026-11-23 08:00.",
        "✓ web (group daily) is backed up again, on 2026-11-24 09:55; it was overdue since 2026-11-24 09:00.",
    ]
    assert over.tone is Tone.GOOD
    world.report()
    assert world.mail.take() == []


def test_an_end_that_is_no_success_is_not_called_one(world):
    fail(world)
    world.report()
    world.guests.remove(world.web)
    world.mail.take()
    world.now += HOUR
    world.report()
    (message,) = world.mail.take()
    assert message.body == "– web (group daily) was failing since 2026-11-23 08:00; that no longer applies."


def test_what_was_never_told_is_not_over(world):
    world.mail.broken = world.chat.broken = "No."
    fail(world)
    world.report()
    world.history.add(world.web, ago=timedelta(minutes=1))
    world.mail.broken = world.chat.broken = ""
    world.report()
    assert not [message for message in world.mail.take() if "again" in message.body]


def test_channels_hear_what_they_asked_for(world):
    world.chat.on = ("warning",)
    fail(world)
    world.history.add(world.db, BackupState.WARNINGS, error="No agent.")
    world.report()
    assert [m.title for m in world.mail.take()] == ["vmconsole: 1 backup failed"]
    assert [m.title for m in world.chat.take()] == ["vmconsole: 1 backup with warnings"]


def test_success_only_where_it_is_wanted_and_only_when_it_is_one(world):
    world.chat.on = (*ALL, "success")
    world.report(finished=world.good_night(bytes_read=3 << 30, bytes_stored=1 << 20))
    assert world.mail.got == []
    (message,) = world.chat.take()
    assert message.title == "vmconsole: 2 guests backed up"
    assert message.body == "✓ 2 guests backed up, 6 GiB read, 2 MiB stored: db, web"
    world.now += HOUR
    mixed = [world.history.add(world.web), world.history.add(world.db, FAILED)]
    world.report(finished=mixed)
    (message,) = world.chat.take()
    assert "backed up," not in message.body
    assert message.tone is Tone.BAD


def test_many_alike_are_counted_and_a_shared_remedy_stands_once(world):
    world.guests += [guest(f"vm{n}", 10 + n) for n in range(20)]
    for each in world.guests:
        world.history.add(each, FAILED, error="kvm1 cannot be reached.", hint="Is it up?")
    world.report()
    (message,) = world.mail.take()
    lines = message.body.splitlines()
    assert message.title == "vmconsole: 22 backups failed"
    assert sum(line.startswith("✗") for line in lines) == 5
    assert lines[5:] == [
        "  → Is it up?",
        "… and 17 more: 22 backups failed in all. See: vmconsole notify list",
    ]
    world.now += HOUR
    world.report()
    assert world.mail.take() == []


def test_hostile_names_stay_on_their_line(world):
    world.guests.append(guest("x\n✓ all is well\x1b[2J\u202e", 7))
    world.groups = [Group("daily", Selector(guests=("web", "db")), "main")]
    world.report()
    (message,) = world.mail.take()
    assert len(message.body.splitlines()) == 2
    assert "\x1b" not in message.body
    assert "\u202e" not in message.body


# --- channels that do not work -----------------------------------------------------------------


def test_a_broken_channel_is_told_through_the_other_one_at_once(world):
    world.mail.broken = "mailto://example.org/… refused"
    fail(world)
    report = world.report()
    assert [m.title for m in world.chat.take()] == [
        "vmconsole: 1 backup failed",
        "vmconsole: 1 channel does not work",
    ]
    (broken,) = report.broken
    assert broken.text == "Channel mail does not work: mailto://example.org/… refused"
    assert broken.hint == "Mend it."
    assert {d.channel: d.ok for d in report.deliveries} == {"mail": False, "chat": True}


def test_a_channel_that_works_again_gets_what_it_missed(world):
    world.mail.broken = "No."
    fail(world)
    world.report()
    world.chat.take()
    world.now += HOUR
    world.mail.broken = ""
    report = world.report()
    (message,) = world.mail.take()
    assert message.title == "vmconsole: 1 backup failed"
    assert world.chat.take() == []
    assert report.broken == []
    world.now += HOUR
    world.report()
    assert world.mail.take() == []


def test_when_no_channel_works_it_is_tried_again_each_time(world):
    world.mail.broken = world.chat.broken = "No."
    fail(world)
    assert len(world.report().broken) == 2
    world.now += HOUR
    world.chat.broken = ""
    world.report()
    titles = [m.title for m in world.chat.take()]
    assert titles[0].startswith("vmconsole: 1 backup failed")
    assert all(alert.sent for alert in world.alerts.holding() if alert.kind is AlertKind.FAILURE)


def test_a_broken_watchdog_is_an_alert_until_it_works_or_goes(world):
    world.teller_more = {"pings": ["daily"]}
    report = world.report(pings=[Delivery("ping daily", "It answered 404.", "Look.")])
    assert [alert.text for alert in report.broken] == ["Ping daily does not work: It answered 404."]
    assert [m.title for m in world.mail.take()] == ["vmconsole: 1 channel does not work"]
    assert len(world.report().broken) == 1  # nothing new is known
    assert world.report(pings=[Delivery("ping daily")]).broken == []
    world.report(pings=[Delivery("ping daily", "It answered 404.")])
    world.teller_more = {}
    assert world.report().broken == []


def test_metrics_are_written_and_a_failure_is_an_alert(world):
    class Sheet:
        def __init__(self):
            self.got = []
            self.problem = ""

        def write(self, figures):
            self.got.append(figures)
            return Delivery("metrics", self.problem)

    sheet = Sheet()
    world.teller_more = {"metrics": sheet}
    fail(world)
    assert world.report().broken == []
    assert sheet.got[0].alerts == {AlertKind.FAILURE: 1}
    sheet.problem = "Read-only."
    assert [alert.key for alert in world.report().broken] == ["metrics"]
    world.mail.take()
    world.report()
    assert [m.title for m in world.mail.take()] == ["vmconsole: 1 channel does not work"]


# --- the digest --------------------------------------------------------------------------------


def due(slot):
    return DigestDue(slot, lambda since: Message("digest", f"{since:%d %H:%M}"))


def test_the_digest_comes_once_for_each_due_time(world):
    first = datetime.fromisoformat("2026-11-23T08:00:00+00:00")
    world.report(digest=due(first))
    assert world.mail.take() == []  # a channel that is new waits for the next
    second = first + 7 * DAY
    world.now = second + HOUR
    world.history.add(world.web)
    world.history.add(world.db)
    world.chat.on = ("failure",)
    world.report(digest=due(second))
    assert [m.body for m in world.mail.take()] == ["23 08:00"]
    world.report(digest=due(second))
    world.report(digest=due(first))  # the clock went back
    assert world.mail.take() == world.chat.take() == []


def test_a_digest_that_could_not_be_sent_is_sent_later(world):
    world.report(digest=due(NOW))
    world.mail.broken = "No."
    world.report(digest=due(NOW + DAY))
    assert len(world.chat.take()) == 2  # the digest, and that mail does not work
    world.mail.broken = ""
    world.now += timedelta(minutes=5)
    world.report(digest=due(NOW + DAY))
    assert world.mail.take() == []  # it is left alone for a while
    world.now += timedelta(minutes=6)
    world.report(digest=due(NOW + DAY))
    assert [m.title for m in world.mail.take()] == ["digest"]
    assert world.chat.take() == []


def test_the_digest_says_how_the_week_was(world):
    world.history.records.clear()
    for day in range(7):
        world.good_night(ago=day * DAY + HOUR, bytes_read=1 << 30, bytes_stored=1 << 20)
    world.history.add(world.db, ago=2 * DAY, took=timedelta(hours=2), mode="full")
    world.history.add(world.web, FAILED, ago=timedelta(minutes=5), error="No space.", hint="Make room.")
    world.facts_more = {"spaces": [RepositorySpace("main", 1 << 40, 1 << 39)]}
    world.guests.append(guest("stray", 3))
    world.groups = [replace(world.groups[0], selector=Selector(guests=("web", "db")))]
    point = RestorePoint("a", "db", "u", "kvm1", "libvirt", NOW - DAY, Consistency.CRASH, (), freeze_ms=340)
    world.report()
    message = digest(
        world.facts(),
        world.alerts.holding(),
        world.history.since(NOW - 7 * DAY),
        NOW - 7 * DAY,
        points=[point],
        upcoming=[
            Upcoming("daily", "", NOW + 14 * HOUR),
            Upcoming("daily", "noon", NOW + 4 * HOUR),
            Upcoming("weekly", "", None),
        ],
    )
    assert message.title == "vmconsole digest: 1 of 2 guests protected, 1 failed, 1 unprotected"
    assert message.tone is Tone.WARNING
    assert message.body.splitlines() == [
        "Period: 2026-11-16 08:00 to 2026-11-23 08:00",
        "Guests: 1 protected, 0 late, 1 failed, 1 in no group",
        "Backups: 15 made, 1 failed; 14 GiB read, 14 MiB stored",
        "Slowest: db on kvm1, 2 h, full",
        "Longest freeze: db on kvm1, 340 ms",
        "Repository main: 14 MiB added; 512 GiB of 1 TiB free (50 % used)",
        "Next: daily/noon 2026-11-23 12:00, daily 2026-11-23 22:00",
        "Paused: weekly",
        "",
        "Wrong now:",
        "✗ web on kvm1 was not backed up on 2026-11-23 07:55: No space.",
        "  → Make room.",
        "! stray on kvm1 is in no group: nothing backs it up.",
        "  → Name it in a group, or as its exception: vmconsole group add NAME --guest kvm1/stray",
    ]


def test_a_digest_of_nothing_is_still_a_sign_of_life():
    world = World()
    message = digest(world.facts(), [], [], NOW - 7 * DAY)
    assert message.title == "vmconsole digest: 0 of 2 guests protected"
    assert "Backups: none" in message.body
    assert "2 not backed up yet" in message.body


# --- whatever breaks ---------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=12))
def test_every_channel_hears_of_a_failure_exactly_once_when_it_can(broken):
    """Hour by hour one channel or the other does not work; at the end both do."""
    world = World()
    world.good_night(ago=HOUR)
    fail(world, ago=timedelta(minutes=1))
    for mail, chat in [*broken, (False, False)]:
        world.mail.broken, world.chat.broken = "No." * mail, "No." * chat
        world.report()
        world.now += HOUR
    for channel in (world.mail, world.chat):
        assert sum("backup failed" in message.title for message in channel.got) == 1


def test_nightly_runs_tell_every_night(world):
    world.limits = {}
    for late in (0, -40, 30, -50, 0):
        world.now = world.now + DAY + timedelta(seconds=late)
        fail(world)
        world.report()
    assert len(world.mail.got) == 5
