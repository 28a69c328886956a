"""What a dry run answers, read."""

from __future__ import annotations

import json

from vmconsole.front.services import Captured
from vmconsole.tui.planning import plan_of

FULL = {"guest": "web", "uuid": "1", "host": "kvm1", "mode": "full", "reason": "no restore point yet",
        "method": "pull", "bytes_expected": 5, "warnings": ["No agent."], "disks": []}  # fmt: skip
REFUSED = {
    "guest": "db",
    "host": "kvm1",
    "error": "HostError",
    "message": "It is locked.",
    "hint": "Unlock it.",
}
LOST = {"error": "HostUnreachable", "message": "pve does not answer.", "hint": "Check it.", "exit_code": 20}


def test_guests_with_their_mode_and_those_that_are_refused():
    plan = plan_of(Captured(1, json.dumps({"plan": [FULL, REFUSED]}), ""))
    full, refused = plan.guests
    assert (full.mode, full.why, full.bytes, full.warnings) == (
        "full",
        "no restore point yet",
        5,
        ("No agent.",),
    )
    assert (refused.refused, refused.hint) == ("It is locked.", "Unlock it.")
    assert (plan.bytes, plan.refused, plan.problem) == (5, 1, "")


def test_a_host_that_was_left_out_is_told_beside_the_plan():
    plan = plan_of(Captured(20, f"{json.dumps({'plan': [FULL]})}\n{json.dumps(LOST)}\n", ""))
    assert len(plan.guests) == 1
    assert (plan.problem, plan.hint) == ("pve does not answer.", "Check it.")


def test_an_error_alone():
    plan = plan_of(Captured(20, json.dumps(LOST), "✗ pve does not answer."))
    assert plan.guests == ()
    assert plan.problem == "pve does not answer."


def test_what_is_no_answer_at_all():
    assert plan_of(Captured(70, "", "Traceback")).problem == "Traceback"
    assert plan_of(Captured(1, "", "")).problem == "It failed and did not say why."
    assert plan_of(Captured(0, "[1]\n{nonsense", "")).problem == ""
