"""Which of the first steps is for now, and what hosts look like from what is known of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from vmconsole.config.load import parse
from vmconsole.errors import HostKeyChanged, HostUnreachable
from vmconsole.model.guest import Check, HostInventory, HostKind, Node, Storage
from vmconsole.model.run import JournalEntry
from vmconsole.tui.commands import Command, Ended
from vmconsole.tui.dialogs.first_steps import group_command, kit_text
from vmconsole.tui.dialogs.hosts import add_command, said_of_cleaning
from vmconsole.tui.first_steps import Id, Known, is_empty, steps
from vmconsole.tui.host_rows import Checked, Extras, checked_from, host_rows, low_storages
from vmconsole.tui.host_text import gauge
from vmconsole.tui.picture import Picture
from vmconsole.tui.states import Glyphs, State

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
HOST = b'[hosts.kvm1]\nkind = "libvirt"\naddress = "root@kvm1"\n'
REPOSITORY = b'[repositories.main]\nlocation = "/srv/b c"\npassphrase = { file = "/etc/secret" }\n'
NOTHING = Known({}, frozenset(), {}, frozenset(), frozenset(), frozenset())
UNKNOWN = HostKeyChanged("The host key of kvm1 is not trusted yet: ssh-ed25519 SHA256:a")
CHANGED = HostKeyChanged("The host key of kvm1 has CHANGED: it shows SHA256:a")
SEEN = HostInventory("kvm1", HostKind.LIBVIRT, reachable=True)


def picture(tmp_path, text, **hosts):
    config = parse(tmp_path / "config.toml", text)
    return Picture(NOW, config=config, hosts={name: (found, NOW) for name, found in hosts.items()})


def state_of(found, wanted):
    return next(step.state for step in found if step.id is wanted)


def one_row(tmp_path, inventory=SEEN, failures=None, asking=(), checked=None, extras=None):
    hosts = {} if inventory is None else {"kvm1": inventory}
    rows = host_rows(picture(tmp_path, HOST, **hosts), failures or {}, frozenset(asking), checked or {},
                     extras or Extras())  # fmt: skip
    assert len(rows) == 1
    return rows[0]


def test_without_a_configuration_host_and_repository_come_first():
    found = steps(Picture(NOW), NOTHING)
    assert [step.id for step in found if step.open] == [Id.HOST, Id.REPOSITORY]
    assert is_empty(Picture(NOW))


@pytest.mark.parametrize(
    ("failure", "state"),
    [(UNKNOWN, State.LATE), (CHANGED, State.FAILED), (HostUnreachable("No route."), State.FAILED)],
)
def test_a_host_that_does_not_answer_is_not_done(tmp_path, failure, state):
    known = replace(NOTHING, failures={"kvm1": failure})
    found = steps(picture(tmp_path, HOST, kvm1=SEEN), known)
    assert state_of(found, Id.HOST) is State.OK
    assert state_of(found, Id.KEY) is state
    assert state_of(found, Id.CHECK) is State.QUEUED


def test_a_check_that_only_warns_is_done_and_one_that_fails_is_not(tmp_path):
    for warning, state in ((True, State.OK), (False, State.FAILED)):
        checked = Checked(NOW, (Check("virsh", ok=False, warning=warning),))
        found = steps(picture(tmp_path, HOST, kvm1=SEEN), replace(NOTHING, checked={"kvm1": checked}))
        assert state_of(found, Id.CHECK) is state


def test_what_is_skipped_holds_up_nothing(tmp_path):
    text = HOST + REPOSITORY
    shown = picture(tmp_path, text, kvm1=SEEN)
    assert state_of(steps(shown, NOTHING), Id.GROUP) is State.QUEUED
    found = steps(shown, replace(NOTHING, skipped=frozenset({Id.CHECK, Id.KIT})))
    assert state_of(found, Id.CHECK) is State.OFF
    assert state_of(found, Id.GROUP) is State.LATE


def test_the_kit_quotes_where_the_repository_is_and_shows_no_secret(tmp_path):
    text = kit_text(parse(tmp_path / "config.toml", REPOSITORY), "main").plain
    assert "borg key export '/srv/b c' KEYFILE" in text
    assert "in /etc/secret" in text


@pytest.mark.parametrize(
    ("failure", "word"),
    [(UNKNOWN, "key unknown"), (CHANGED, "key changed"), (HostUnreachable("x"), "no answer")],
)
def test_what_keeps_a_host_from_answering_has_its_own_word(tmp_path, failure, word):
    row = one_row(tmp_path, failures={"kvm1": failure})
    assert (row.word, row.needs_attention) == (word, True)


def test_the_worst_of_a_host_is_told(tmp_path):
    full = Storage("tank", "nfs", True, size=100, used=95)
    entry = JournalEntry(1, "r", "p", "kvm1", "scratch", {}, NOW)
    bad = Checked(NOW, (Check("virsh", ok=False, detail="missing"),))
    down = replace(SEEN, nodes=(Node("a", True), Node("b", False)), storages=(full,))
    assert one_row(tmp_path).word == "ok"
    assert one_row(tmp_path, None).word == "not seen"
    assert one_row(tmp_path, asking=("kvm1",)).word == "asking"
    assert one_row(tmp_path, replace(SEEN, storages=(full,))).word == "storage"
    assert one_row(tmp_path, extras=Extras((entry,))).word == "leftovers"
    assert "b" in one_row(tmp_path, down, extras=Extras((entry,))).why
    assert one_row(tmp_path, down, checked={"kvm1": bad}).word == "not ready"


def test_storages_that_are_full_or_gone_are_low():
    some = [Storage("a", "dir", True, size=100, used=89), Storage("b", "dir", True, size=100, used=90),
            Storage("c", "nfs", False), Storage("d", "dir", True)]  # fmt: skip
    assert [item.name for item in low_storages(some)] == ["b", "c"]


def test_a_check_that_says_nothing_is_an_error_and_not_a_success():
    command = Command(("host", "check", "kvm1"))
    assert checked_from(Ended(command, 20, {"message": "no"}, "no", "hint"), NOW).stops
    assert checked_from(Ended(command, 0, None), NOW).stops
    assert not checked_from(Ended(command, 0, {"checks": [{"name": "a", "ok": True}]}), NOW).stops


@pytest.mark.parametrize(
    ("value", "bar"),
    [(None, "–   "), (0.0, "...."), (0.01, "...."), (0.1, "#..."), (0.5, "##.."), (1.0, "####"), (7.0, "####")]
)  # fmt: skip
def test_gauges(value, bar):
    assert gauge(value, Glyphs(ascii=True)).plain == bar


def test_forms_become_commands_that_hold_only_what_was_given():
    given = {"name": "k", "address": "a", "kind": "libvirt", "identity": "", "scratch": "/x", "uri": ""}
    assert add_command(given).argv == ("host", "add", "k", "a", "--kind", "libvirt", "--scratch=/x")
    assert group_command({"name": "g", "hosts": "*", "when": "", "keep": ""}).argv == (
        "group",
        "add",
        "g",
        "--hosts=*",
    )


def test_what_could_not_be_cleaned_is_named():
    done = {"host": "a", "done": True, "detail": ""}
    left = {"host": "b", "done": False, "detail": "busy"}
    assert said_of_cleaning({"cleaned": [done, left]}) == ("Removed 1 of 2 leftovers.", ["b: busy"])
