from __future__ import annotations

import unicodedata
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.events import (
    DiskProgress,
    Event,
    GuestFailed,
    GuestPlanned,
    PointMade,
    Restored,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
    Throttled,
    Waiting,
    Warned,
)
from vmconsole.front.describe import describe, describe_in_full, event_from, indented, unknown

KINDS = (
    DiskProgress,
    GuestFailed,
    GuestPlanned,
    PointMade,
    Restored,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
    Throttled,
    Waiting,
    Warned,
)
TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
BY_TYPE = {"str": TEXT, "int": st.integers(0, 1 << 60), "float": st.floats(0, 1e9)}


def one_of(kind):
    return st.builds(kind, *(BY_TYPE[str(field.type)] for field in fields(kind)))


EVENTS = st.one_of([one_of(kind) for kind in KINDS])


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            GuestPlanned("r", "web", "kvm1", "full", "no point yet", "pull", "", 3 << 20),
            "▶ web on kvm1: full (no point yet), about 3 MiB to read",
        ),
        (
            Throttled("r", "kvm1", 12 << 20, "its guests' writes take 4.1 times as long"),
            "… kvm1 held to 12 MiB/s: its guests' writes take 4.1 times as long",
        ),
        (Throttled("r", "kvm1", 0, "back to full speed"), "… kvm1: back to full speed"),
        (
            PointMade("r", "web", "web.1-2", "incremental", "application", 3.2, 1 << 20, 0),
            "✓ web: incremental, application-consistent, read 1 MiB, stored 0 B in 3.2 s → web.1-2",
        ),
        (
            PointMade("r", "web", "web.1-2", "full", "offline", 3.2, 1, 0),
            "✓ web: full, guest off, read 1 B, stored 0 B in 3.2 s → web.1-2",
        ),
        (GuestFailed("r", "web", "E", "It failed.", "Do this."), "✗ web: It failed.\n  → Do this."),
        (Warned("r", "web", "Look."), "! web: Look."),
        (Waiting("r", "main", "locked"), "… waiting for main: locked"),
        (Restored("r", "a", "/x.raw", 1 << 30, 60), "✓ a: 1 GiB of data in 1 m → /x.raw"),
        (StepStarted("r", "web", "read"), ""),
        (DiskProgress("r", "web", "vda", 1, 2), ""),
    ],
)
def test_lines(event: Event, text: str) -> None:
    assert describe(event) == text


def test_the_log_has_steps_as_well() -> None:
    assert describe_in_full(StepFinished("r", "web", "freeze", 0.04)) == "  web: freeze 40 ms"
    assert describe_in_full(RunStarted("r", "backup", "all")) == "backup all"
    assert describe_in_full(RunFinished("r", "done", 65, 0)) == "done after 1 m 5 s"


@given(EVENTS)
def test_no_event_can_forge_a_line_or_reach_the_terminal(event: Event) -> None:
    for text in (describe(event), describe_in_full(event)):
        first, *rest = text.split("\n")
        assert all(line.startswith("  ") for line in rest)
        for line in (first, *rest):
            assert not {unicodedata.category(c) for c in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(EVENTS)
def test_stored_events_come_back(event: Event) -> None:
    assert event_from(event.as_json()) == event


@given(
    st.dictionaries(
        st.sampled_from(["run", "guest", "seconds", "message", "x"]), st.none() | TEXT | st.integers()
    ),
    st.sampled_from([kind.kind for kind in KINDS] + ["from_the_future", ""]),
)
def test_strange_documents_are_told_somehow(document: dict[str, object], kind: str) -> None:
    document["event"] = kind
    event = event_from(document)
    text = unknown(document) if event is None else describe_in_full(event)
    assert isinstance(text, str)
    assert "\x1b" not in text


def test_older_events_may_lack_a_field() -> None:
    assert event_from({"event": "warned", "run": "r", "subject": "s", "message": "m"}) == Warned(
        "r", "s", "m"
    )


def test_an_answer_of_a_host_cannot_look_like_a_line_of_ours() -> None:
    assert indented("virsh said:\n✓ all is well\x1b[0m") == "virsh said:\n  ✓ all is well\\x1b[0m"
