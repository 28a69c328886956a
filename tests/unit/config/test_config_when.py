from __future__ import annotations

import re
from contextlib import suppress
from datetime import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.config.load import parse
from vmconsole.config.when import parse_when, parse_window
from vmconsole.errors import ConfigError
from vmconsole.model.guest import Disk, Guest, GuestKind, GuestState
from vmconsole.model.schedule import When, Window


@pytest.mark.parametrize(
    ("text", "crons"),
    [
        ("daily 22:00", ["0 22 * * *"]),
        ("every day at 22:00", ["0 22 * * *"]),
        ("weekdays 12:30", ["30 12 * * 1-5"]),
        ("weekend 7:05", ["5 7 * * 0,6"]),
        ("Monday, friday 20:00", ["0 20 * * 1,5"]),
        ("mon-fri 20:00", ["0 20 * * 1-5"]),
        ("fri-mon 20:00", ["0 20 * * 5-6,0-1"]),
        ("sat and sun 4:00", ["0 4 * * 6,0"]),
        ("daily 06:00, 18:30", ["0 6 * * *", "30 18 * * *"]),
        ("monthly 03:00", ["0 3 1 * *"]),
        ("monthly on the 15th 03:00", ["0 3 15 * *"]),
        ("last day 22:00", ["0 22 L * *"]),
        ("first sunday 03:00", ["0 3 * * 0#1"]),
        ("last sunday 03:00", ["0 3 * * 0L"]),
        ("hourly", ["0 * * * *"]),
        ("hourly :15", ["15 * * * *"]),
        ("every 4 h", ["0 */4 * * *"]),
        ("every 20 min", ["*/20 * * * *"]),
        ("0 22 * * 1-5", ["0 22 * * 1-5"]),
    ],
)
def test_times_in_words_and_as_cron(text: str, crons: list[str]) -> None:
    assert parse_when(text) == When(tuple(crons))


def test_a_period_that_does_not_divide_the_day_is_kept_as_it_is() -> None:
    assert parse_when("every 90 min") == When((), 5400)
    assert parse_when("every 2 d") == When((), 172800)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dayly 22:00", '"dayly" is not a day'),
        ("daily 25:00", "has no time that is understood"),
        ("daily", "is not understood"),
        ("", "is not understood"),
        ("0 22 * *", "or as cron"),
        ("61 22 * * *", "bad minute"),
        ("0 0 31 2 *", "bad day-of-month"),
        ("every 1 min", "the shortest time"),
        ("every 24 h", 'say at what time: "daily 22:00"'),
        ("every 4 apples", "is not a unit of time"),
        ("monthly 31 03:00", "there is no day 31 in every month"),
    ],
)
def test_typos_are_refused_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_when(text)


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_a_sentence_for_the_user(text: str) -> None:
    with suppress(ValueError):
        assert parse_when(text) != When(())


def test_windows() -> None:
    assert parse_window("22:00-06:00") == Window(time(22), time(6))
    assert parse_window("8:00 - 24:00") == Window(time(8), time(0))
    for wrong in ("22-6", "22:00", "25:00-26:00", "06:00-06:00", 7):
        with pytest.raises(ValueError, match=r"window|starts when it ends"):
            parse_window(wrong)


BASE = """
[hosts.kvm1]
kind = "libvirt"
address = "kvm1"
[repositories.main]
location = "/srv/r"
encryption = "none"
[groups.daily]
"""


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('guests = ["*"]\nwhen = "dayly 22:00"', ['line 9: groups.daily.when: "dayly" is not a day']),
        ('guests = ["*"]\nwindow = "6-22"', ["line 9: groups.daily.window"]),
        ('guests = ["*"]\nkeep = {}', ["line 9: groups.daily.keep: keeps nothing"]),
        ('guests = ["*"]\nkeep = { daily = -1 }', ["line 9: groups.daily.keep.daily"]),
        ('guests = ["*"]\npaused = "christmas"', ["line 9: groups.daily.paused: must be true, false, or"]),
        ('guests = ["*"]\nping = "healthchecks"', ["line 9: groups.daily.ping"]),
        ('guests = ["a"]\nexclude = ["a"]', ["exclude takes away everything"]),
        ('tags = ["a"]\nexclude_tags = ["a"]', ['tag "a" is in tags and in exclude_tags']),
        ('kinds = ["vms"]', ["line 8: groups.daily.kinds"]),
        ("pools = []", ["covers no guest"]),
        (
            'guests = ["*"]\nwhen = "daily 22:00"\n[groups.daily.schedules.x]\nwhen = "daily 1:00"',
            ["has when and schedules"],
        ),
        (
            'guests = ["*"]\nwhen = "daily 12:00"\nwindow = "22:00-06:00"',
            ["line 9: groups.daily.when", "12:00 is never within 22:00-06:00"],
        ),
        (
            'guests = ["*"]\nwhen = "weekdays 12:30"\noverdue_after = "26 h"',
            ["line 10: groups.daily.overdue_after", "3 d lie between two times of"],
        ),
        ('guests = ["*"]\n[limits]\nrate = "5 KiB/s"', ["line 10: limits.rate: is less than 64 KiB/s"]),
        ('guests = ["*"]\n[limits]\nrates = { "8-9" = "1 MiB" }', ["line 10: limits.rates"]),
        ('guests = ["*"]\n[notify.channels.a]', ["line 9: notify.channels.a: needs a url"]),
    ],
)
def test_wrong_plans_are_refused_with_line_and_remedy(lines: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Path("/c.toml"), (BASE.lstrip() + lines).encode())
    for part in said:
        assert part in caught.value.message


def test_schedules_inherit_from_their_group() -> None:
    lines = """guests = ["*"]
window = "22:00-06:00"
keep = { daily = 7 }
[groups.daily.schedules.night]
when = "daily 22:00"
[groups.daily.schedules.noon]
when = "daily 12:00"
window = "12:00-14:00"
keep = { last = 3 }
paused = true
"""
    group = parse(Path("/c.toml"), (BASE.lstrip() + lines).encode()).group("daily")
    night, noon = group.schedules
    assert (night.name, night.window, night.retention.daily) == ("night", Window(time(22), time(6)), 7)
    assert (noon.window, noon.retention.daily, noon.retention.last) == (Window(time(12), time(14)), 0, 3)
    assert (night.pause, noon.pause is not None) == (None, True)
    assert group.retention.daily == 7


def test_disks_are_left_out_by_guest_tag_and_glob() -> None:
    text = BASE.lstrip() + (
        'guests = ["*"]\n'
        'exclude_disks = { "db*" = ["vdc"], "#scratch" = ["scsi[1-9]"] }\n'
        'only_disks = { "mail" = ["vda"] }\n'
    )
    config = parse(Path("/c.toml"), text.encode())

    def left_out(name: str, *disks: str, tags: tuple[str, ...] = ()) -> tuple[str, ...]:
        made = tuple(Disk(disk, 1, "qcow2", f"/{disk}") for disk in disks)
        guest = Guest(name, "1", name, "kvm1", GuestKind.VM, GuestState.RUNNING, tags=tags, disks=made)
        return config.export_options(guest, "daily").exclude_disks

    assert left_out("db-01", "vda", "vdc") == ("vdc",)
    assert left_out("db-01", "vda") == ("vdc",), "it may have it by the time of the backup"
    assert left_out("web", "scsi0", "scsi1", tags=("scratch",)) == ("scsi1",)
    assert left_out("web", "scsi0", "scsi1") == ()
    assert left_out("mail", "vda", "vdb", "vdc") == ("vdb", "vdc")


def test_an_uplink_must_be_one_that_is_there() -> None:
    text = "[limits]\nuplinks = { branch = 1 }\n" + BASE.replace(
        'address = "kvm1"', 'address = "kvm1"\nuplink = "{}"'
    )
    good = parse(Path("/c.toml"), (text.replace("{}", "branch") + 'guests = ["*"]').encode())
    assert good.uplink("kvm1") == "branch"
    assert good.uplink_limits()["branch"].parallel == 1
    with pytest.raises(ConfigError, match=r'line \d+: hosts.kvm1.uplink: there is no uplink "office"'):
        parse(Path("/c.toml"), (text.replace("{}", "office") + 'guests = ["*"]').encode())
