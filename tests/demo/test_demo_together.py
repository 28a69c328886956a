"""Guests of several hosts, cut at the same moment, on the open demo shop."""

from __future__ import annotations

import json

import pytest
from open_shop import open_shop

from vmconsole.__main__ import main

GROUPS = """
[groups.trio]
guests = ["web-01", "wiki-01", "build-07"]
together = true
freeze_budget = "30 s"

[groups.mixed]
guests = ["web-01", "mail-02", "dns-01"]
together = true
when_not_together = "apart"

[groups.never]
guests = ["web-01", "wiki-01", "files*"]
together = true
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory):
    with open_shop(tmp_path_factory.mktemp("together"), GROUPS) as path:
        yield str(path)


@pytest.fixture
def ask(config: str, capsys: pytest.CaptureFixture[str]):
    def call(*words: str, code: int = 0) -> list[dict]:
        capsys.readouterr()
        assert main(["--config", config, "--json", *words]) == code
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


def of(events: list[dict], kind: str) -> list[dict]:
    return [event for event in events if event.get("event") == kind]


def test_three_guests_on_two_hosts_one_of_them_off(ask) -> None:
    for mode in ("full", "incremental"):
        events = ask("backup", "--group", "trio")
        (told,) = of(events, "cut_together")
        assert sorted(told["guests"]) == ["build-07", "web-01", "wiki-01"]
        # Frozen before any was cut, on both hosts.
        steps = [
            (event["step"], event["guest"])
            for event in of(events, "step_started")
            if event["guest"] != "build-07"  # it is off: nothing is frozen, and any moment will do
        ]
        cuts = [index for index, (step, _) in enumerate(steps) if step == "cut"]
        freezes = [index for index, (step, _) in enumerate(steps) if step == "freeze"]
        assert max(freezes) < min(cuts)
        for name in told["guests"]:
            point = ask("points", name)[0]["points"][0]
            assert point["together"] == {"guests": told["guests"], "skew_ms": told["skew_ms"]}
            if name == "web-01":
                assert (point["consistency"], point["mode"]) == ("application", mode), point["reason"]
        print(f"skew of a cut of three guests on two hosts: {told['skew_ms']} ms")


def test_a_container_goes_by_itself_and_the_others_then_too(ask) -> None:
    events = ask("backup", "--group", "mixed", code=3)
    assert of(events, "cut_together") == []
    messages = [event["message"] for event in of(events, "warned")]
    assert any("dns-01 is read by vzdump" in message and "by itself" in message for message in messages)
    assert {event["guest"] for event in of(events, "point_made")} == {"web-01", "mail-02", "dns-01"}
    assert ask("points", "web-01")[0]["points"][0]["together"] is None


def test_a_guest_without_an_agent_fails_all_and_leaves_nothing(ask) -> None:
    before = len(ask("points")[0]["points"])
    events = ask("backup", "--group", "never", code=1)
    assert {event["error"] for event in of(events, "guest_failed")} == {"NotTogether"}
    assert any("could not be frozen" in event["message"] for event in of(events, "guest_failed"))
    assert len(ask("points")[0]["points"]) == before
    assert ask("doctor")[0]["leftovers"] == []
    again = ask("backup", "web-01")
    assert of(again, "guest_planned")[0]["mode"] == "incremental", of(again, "guest_planned")[0]["reason"]
