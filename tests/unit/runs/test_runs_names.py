from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vmconsole.errors import GuestNotFound, PointNotFound
from vmconsole.model.guest import Guest, GuestKind, GuestState
from vmconsole.model.point import Consistency, RestorePoint, archive_name
from vmconsole.runs.names import find_guest, find_point, points_of

FIRST = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)


def guest(name, uuid, host="kvm1", id_="7"):
    return Guest(uuid, id_, name, host, GuestKind.VM, GuestState.RUNNING)


def point(name, uuid, day):
    when = FIRST + timedelta(days=day)
    return RestorePoint(
        archive_name(name, uuid, when), name, uuid, "kvm1", "libvirt", when, Consistency.CRASH, ()
    )


WEB = guest("web-01", "aaaa1111-0000-4000-8000-000000000001")
DB = guest("db", "bbbb2222-0000-4000-8000-000000000002", id_="8")
DB2 = guest("db", "bbbb3333-0000-4000-8000-000000000003", host="kvm2", id_="9")
GUESTS = [WEB, DB, DB2]


@pytest.mark.parametrize(
    ("text", "found"),
    [("web-01", WEB), ("kvm1/db", DB), ("kvm2/db", DB2), ("8", DB), ("aaaa", WEB), (DB.uuid.upper(), DB)],
)
def test_a_guest_is_found_by_every_name_it_has(text, found):
    assert find_guest(text, GUESTS) is found


def test_an_ambiguous_guest_lists_the_candidates():
    with pytest.raises(GuestNotFound, match=r"kvm1/db .*, kvm2/db") as caught:
        find_guest("db", GUESTS)
    assert caught.value.exit_code == 2
    with pytest.raises(GuestNotFound, match="2 guests"):
        find_guest("bbbb", GUESTS)


def test_an_unknown_guest_says_what_was_near():
    with pytest.raises(GuestNotFound) as caught:
        find_guest("web", GUESTS)
    assert "'web-01'" in caught.value.hint


POINTS = [point("web-01", WEB.uuid, day) for day in (2, 1, 0)]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("web-01@latest", 0),
        ("web-01@2026-11-21", 1),
        ("web-01@-2", 2),
        ("web-01@-0", 0),
        ("aaaa@latest", 0),
        ("kvm1/web-01@latest", 0),
        (POINTS[1].archive, 1),
    ],
)
def test_a_point_is_found_by_every_name_it_has(text, index):
    assert find_point(text, POINTS) is POINTS[index]


@pytest.mark.parametrize("text", ["web-01@-3", "web-01@2026-01-01", "web-01", "nobody@latest", "@latest", ""])
def test_a_wrong_point_is_a_clear_error(text):
    with pytest.raises(PointNotFound) as caught:
        find_point(text, POINTS)
    assert caught.value.hint


def test_points_of_two_guests_of_one_name_are_not_mixed():
    with pytest.raises(PointNotFound, match="2 guests"):
        points_of("db", [point("db", DB.uuid, 0), point("db", DB2.uuid, 1)])
