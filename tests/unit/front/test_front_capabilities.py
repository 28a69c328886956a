from __future__ import annotations

import shlex

from vmconsole.cli.main import VERBS, parse
from vmconsole.front.capabilities import CAPABILITIES, Capability, capability, planned


def test_a_verb_that_exists_is_not_planned():
    for verb in VERBS:
        assert planned(verb) is None
    assert planned("rollback") is capability("rollback")
    assert planned("frobnicate") is None


def test_what_is_there_has_nothing_to_say():
    assert Capability("x", "X", ("x",), "y", since="0.2").sentence == ""


def test_every_command_that_does_the_job_today_is_one():
    for item in CAPABILITIES:
        for line in item.instead_for("x.1-y").splitlines():
            _, found, words = line.partition("vmconsole ")
            if found and "--help" not in words:
                parse(shlex.split(words))


def test_the_point_is_named_and_other_words_are_left_alone():
    told = capability("rollback").instead_for("a b")
    assert "restore 'a b' --host HOST" in told
