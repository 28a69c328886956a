"""A group's fields: what is typed is what stands in the file, whichever way it gets there."""

from __future__ import annotations

import argparse
from datetime import date, datetime

import pytest

from vmconsole.cli import group_options
from vmconsole.errors import ConfigError
from vmconsole.model.schedule import KEEP_ALL, Retention
from vmconsole.tui.group_fields import FIELDS, changed, group_command, parse_keep, texts_of, values_of
from vmconsole.tui.group_rows import keep_in_short

WHOLE = {
    "guests": ["web-*", "kvm1/db"],
    "tags": ["prod"],
    "hosts": ["*"],
    "pools": ["p"],
    "kinds": ["vm", "container"],
    "exclude": ["-odd", "x"],
    "exclude_tags": ["scrap"],
    "exclude_disks": {"db": ["vdb", "vdc"], "#scrap": ["scsi[1-9]"], "a=b": ["sda"]},
    "only_disks": {"-odd": ["vda"]},
    "when": "0 22 * * 1-5",
    "window": "22:00-06:00",
    "jitter": "20 min",
    "keep": {"last": 3, "daily": 14, "minimum": 2},
    "full_every": 20,
    "repository": "main",
    "overdue_after": "26 h",
    "together": True,
    "when_not_together": "apart",
    "freeze": False,
    "paused": "2026-12-24 18:00",
    "ping": "https://hc.example/x",
}


def parsed(command: tuple[str, ...]) -> dict[str, object]:
    """As the command line understands it."""
    parser = argparse.ArgumentParser()
    group_options.configure(parser, edit=command[1] == "edit")
    return group_options.changes(parser.parse_args(command[3:]))


def test_every_field_of_a_group_that_has_an_option_is_in_the_form() -> None:
    assert {item.key for item in FIELDS} == WHOLE.keys()


def test_a_table_comes_back_as_it_was() -> None:
    assert values_of(texts_of(WHOLE)) == WHOLE
    assert changed(texts_of(WHOLE), texts_of(WHOLE)) == {}


def test_a_new_group_is_made_by_a_command_that_says_the_same() -> None:
    command = group_command("x", changed(texts_of({}), texts_of(WHOLE)), new=True)
    assert command[:3] == ("group", "add", "x")
    assert parsed(command) == WHOLE


def test_emptied_fields_are_removed_by_the_command() -> None:
    wanted = changed(texts_of(WHOLE), texts_of({}))
    command = group_command("x", wanted, new=False)
    assert parsed(command) == dict.fromkeys(WHOLE)


def test_numbers_and_dates_of_the_file_are_shown_as_people_write_them() -> None:
    texts = texts_of(
        {
            "jitter": 1200,
            "overdue_after": 93600.0,
            "paused": date(2026, 12, 24),
            "guests": "one",
            "freeze": True,
        }
    )
    assert (texts["jitter"], texts["overdue_after"]) == ("20 min", "26 h")
    assert (texts["paused"], texts["guests"], texts["freeze"]) == ("2026-12-24", "one", "yes")
    assert texts_of({"paused": datetime(2026, 12, 24, 18, 30)})["paused"] == "2026-12-24 18:30"  # noqa: DTZ001
    assert texts_of({"paused": True})["paused"] == "yes"


@pytest.mark.parametrize(
    ("text", "value"), [("yes", True), ("No", None), ("", None), ("2026-12-24", "2026-12-24")]
)
def test_a_pause_is_yes_no_or_a_date(text: str, value: object) -> None:
    assert values_of({"paused": text})["paused"] == value


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("14 daily, 8 weekly", {"daily": 14, "weekly": 8}),
        ("daily=14,weekly=8", {"daily": 14, "weekly": 8}),
        ("daily=14 weekly=8", {"daily": 14, "weekly": 8}),
        ("14 days, 8 weeks; at least 3", {"daily": 14, "weekly": 8, "minimum": 3}),
        ("last 5 + hourly 24", {"last": 5, "hourly": 24}),
        ("the last 5, 2 years", {"last": 5, "yearly": 2}),
    ],
)
def test_keep_rules_as_people_write_them(text: str, rules: dict[str, int]) -> None:
    assert parse_keep(text) == rules


@pytest.mark.parametrize(
    "text", ["daily", "14", "14 dayly", "daily -1", "7 daily, 8 daily", ",", "1 2 daily"]
)
def test_keep_rules_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_keep(text)


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("exclude_disks", "vdb", "GUEST=DISK"),
        ("only_disks", "db=", "GUEST=DISK"),
        ("only_disks", "#=vda", "GUEST=DISK"),
        ("full_every", "0", "from 1 on"),
        ("full_every", "often", "from 1 on"),
    ],
)
def test_what_cannot_be_read_is_told_with_how_to_write_it(key: str, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values_of({key: text})
    assert told in caught.value.hint


def test_keep_rules_in_short() -> None:
    assert (
        keep_in_short(Retention(last=3, hourly=24, daily=14, monthly=12, minimum=5)) == "last 3 24h 14d 12m"
    )
    assert keep_in_short(KEEP_ALL) == "all"
