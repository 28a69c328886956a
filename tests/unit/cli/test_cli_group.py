"""Groups from the command line: made, changed, looked at before and after."""

from __future__ import annotations

import tomllib

import pytest

from vmconsole.front.group_words import keep_in_words
from vmconsole.model.schedule import KEEP_ALL, Retention


def group(world, name="daily"):
    return tomllib.loads(world.config.read_text())["groups"][name]


def test_every_field_can_be_given(world):
    said = world.call(
        *("group", "add", "crm", "--guests", "crm*,erp", "--guest", "kvm1/db", "--tags", "gold"),
        *("--hosts", "kvm1", "--pools", "p", "--kinds", "vm,container", "--exclude", "crm-test"),
        *("--exclude-tags", "scrap", "--repository", "main", "--when", "weekdays 22:00"),
        *("--window", "22:00-06:00", "--jitter", "10 min", "--keep", "daily=14, weekly=8,minimum=2"),
        *("--overdue-after", "5 d", "--together", "--pause", "2099-12-24", "--ping", "https://hc.example/x"),
        *("--exclude-disks", "crm-1=vdb,#scrap=scsi[1-9]", "--exclude-disks", "crm-1=vdc"),
        *("--only-disks", "erp=vda", "--full-every", "20", "--when-not-together", "apart"),
    )
    assert said.code == 0, said.err
    assert group(world, "crm") == {
        "guests": ["crm*", "erp", "kvm1/db"],
        "tags": ["gold"],
        "hosts": ["kvm1"],
        "pools": ["p"],
        "kinds": ["vm", "container"],
        "exclude": ["crm-test"],
        "exclude_tags": ["scrap"],
        "repository": "main",
        "when": "weekdays 22:00",
        "window": "22:00-06:00",
        "jitter": "10 min",
        "overdue_after": "5 d",
        "ping": "https://hc.example/x",
        "keep": {"daily": 14, "weekly": 8, "minimum": 2},
        "together": True,
        "when_not_together": "apart",
        "exclude_disks": {"crm-1": ["vdb", "vdc"], "#scrap": ["scsi[1-9]"]},
        "only_disks": {"erp": ["vda"]},
        "full_every": 20,
        "paused": "2099-12-24",
    }


SEVERAL = """
[groups.both]
hosts = ["kvm1"]

[groups.both.schedules.night]  # when nobody works
when = "daily 22:00"
keep = { daily = 7 }

[groups.both.schedules.noon]
when = "weekdays 12:00"
paused = true
"""


def test_one_of_several_schedules_is_changed(world):
    world.config.write_text(world.config.read_text() + SEVERAL)
    said = world.call("group", "edit", "both", "--schedule", "night", "--when", "daily 23:00", "--keep", "")
    assert said.code == 0, said.err
    assert "Schedule night of group both was changed" in said.out
    assert "when: daily 22:00 → daily 23:00" in said.out
    assert world.call("group", "edit", "both", "--schedule", "noon", "--resume").code == 0
    assert group(world, "both")["schedules"] == {
        "night": {"when": "daily 23:00"},
        "noon": {"when": "weekdays 12:00"},
    }
    assert "# when nobody works" in world.config.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("both", "--schedule", "nine", "--jitter", "5 min"), "There are: night, noon."),
        (("daily", "--schedule", "main", "--jitter", "5 min"), "leave out --schedule"),
        (("both", "--schedule", "noon", "--tags", "x"), "by a command without --schedule"),
        (("both", "--schedule", "noon", "--when", ""), "when"),
        (("both", "--full-every", "0"), "--full-every 30"),
        (("both", "--only-disks", "vda"), "GUEST=DISK"),
    ],
)
def test_what_a_schedule_cannot_be_told_is_refused(world, words, message):
    before = world.config.read_text() + SEVERAL
    world.config.write_text(before)
    said = world.call("group", "edit", *words)
    assert said.code != 0
    assert message in said.err
    assert world.config.read_text() == before


def test_edit_changes_what_it_is_told_and_keeps_comments(world):
    text = world.config.read_text().replace("[groups.daily]", "# the important ones\n[groups.daily]")
    world.config.write_text(text)
    said = world.call("group", "edit", "daily", "--when", "daily 22:00", "--tags", "", "--keep", "daily=7")
    assert said.code == 0, said.err
    assert "tags: prod → –" in said.out
    assert "when: – → daily 22:00" in said.out
    assert "keep: – → daily=7" in said.out
    assert "# the important ones" in world.config.read_text()
    assert group(world) == {
        "guests": ["web*"],
        "exclude": ["web-test"],
        "when": "daily 22:00",
        "keep": {"daily": 7},
    }
    said = world.call("group", "edit", "daily", "--when", "daily 22:00", "--json")
    assert said.document["changed"] == {}


def test_pause_and_resume_and_together_and_apart(world):
    world.call("group", "edit", "daily", "--when", "daily 22:00", "--together", "--pause")
    assert group(world)["paused"] is True
    assert group(world)["together"] is True
    said = world.call("group", "show", "daily")
    assert "daily 22:00, paused" in said.out
    assert "next: never" in said.out
    world.call("group", "edit", "daily", "--resume", "--no-together")
    assert not {"paused", "together"} & group(world).keys()


def test_freeze_is_yes_no_or_as_in_defaults(world):
    said = world.call("group", "edit", "daily", "--freeze", "no")
    assert "freeze: – → no" in said.out
    assert group(world)["freeze"] is False
    world.call("group", "edit", "daily", "--freeze", "yes")
    assert group(world)["freeze"] is True
    world.call("group", "edit", "daily", "--freeze", "default")
    assert "freeze" not in group(world)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Say what to change"),
        (["--keep", "daily"], "not NAME=NUMBER"),
        (["--keep", "daily=1,daily=2"], "twice"),
        (["--keep", "dayly=3"], "dayly"),
        (["--when", "sometimes"], "sometimes"),
        (["--when", "daily 12:00", "--window", "22:00-06:00"], "never within"),
        (["--repository", "mein"], "no repository"),
        (["--guests", "", "--tags", ""], "covers no guest"),
        (["--pause", "soon"], "until when"),
        (["--pause", "--resume"], "not allowed"),
        (["--ping", "ftp://x"], "http"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_changed(world, words, message):
    before = world.config.read_text()
    for more in ([], ["--dry-run"]):
        said = world.call("group", "edit", "daily", *words, *more)
        if words or not more:
            assert said.code == 2
            assert message in said.err
    assert world.config.read_text() == before


def test_edit_of_a_group_that_is_not_there(world):
    said = world.call("group", "edit", "dialy", "--pause")
    assert said.code == 2
    assert "Did you mean" in said.err


def test_a_dry_run_shows_what_would_come_out(world):
    before = world.config.read_text()
    said = world.call("group", "edit", "daily", "--exclude", "", "--when", "every 4 h", "--dry-run")
    assert said.code == 0, said.err
    assert "exclude: web-test → –" in said.out
    assert "When: every 4 h" in said.out
    assert [line.split("\t")[0] for line in said.lines[-2:]] == ["web", "web-test"]
    assert world.config.read_text() == before
    said = world.call("group", "add", "all", "--hosts", "*", "--dry-run", "--json")
    assert len(said.document["guests"]) == 3
    assert said.document["guests"][0]["other_groups"] == ["daily"]
    assert said.document["dry_run"] is True
    assert world.config.read_text() == before


def test_show_tells_times_retention_and_overlaps(world):
    world.call(*("group", "edit", "daily", "--when", "daily 22:00", "--window", "22:00-06:00"))
    world.call("group", "edit", "daily", "--keep", "daily=14,weekly=8")
    world.call("group", "add", "all", "--hosts", "*")
    said = world.call("group", "show", "daily")
    assert "When: daily 22:00, only 22:00–06:00" in said.out
    (times,) = [line for line in said.lines if line.startswith("  next: ")]
    assert times.count("22:00") == 5
    assert "Keeps: 14 daily, 8 weekly" in said.out
    assert "web\tkvm1\tname matches web*\tall" in said.out
    assert "1 guest is in other groups too (all)" in said.err
    document = world.call("group", "show", "daily", "--json").document
    (schedule,) = document["schedules"]
    assert len(schedule["next"]) == 5
    assert schedule["window"] == "22:00-06:00"
    assert schedule["keep"] == {"daily": 14, "weekly": 8, "minimum": 1}


def test_list_tells_the_next_time_and_the_guests_last_seen(world):
    world.call("inventory")
    world.call("group", "edit", "daily", "--when", "daily 22:00")
    said = world.call("group", "list")
    name, seen, when, coming, repository, covers = said.lines[1].split("\t")
    assert (name, seen, when, repository) == ("daily", "1", "daily 22:00", "main")
    assert "22:00" in coming
    assert covers == "guests: web*; tags: prod; exclude: web-test"
    (listed,) = world.call("group", "list", "--json").document["groups"]
    assert listed["guests_seen"] == 1
    assert len(listed["schedules"][0]["next"]) == 1


def test_what_is_kept_in_words():
    assert keep_in_words(Retention(last=3, daily=7, minimum=2)) == "the last 3, 7 daily; at least 2"
    assert keep_in_words(KEEP_ALL).startswith("everything")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_the_completion_knows_them(world, shell):
    script = world.call("completion", shell).out
    assert "overdue-after" in script
    assert "no-together" in script
    assert "systemd" in script
