"""The coming night, drawn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from vmconsole.schedule.forecast import simulate
from vmconsole.schedule.jobs import HOST, Capacity, Job, Resource
from vmconsole.tui.timeline import LABEL, draw, lanes

START = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)
END = START + timedelta(hours=24)
LIMITS = {"kvm1": 2, "kvm2": 1}
CAPACITY = Capacity(3, {Resource(HOST, host): most for host, most in LIMITS.items()})


def job(number, host, due_minutes, minutes):
    due = START + timedelta(minutes=due_minutes)
    return Job(f"{number:03}", f"web-{number}", host, "main", minutes * 60.0, 1, due)


jobs = st.lists(
    st.tuples(st.sampled_from(["kvm1", "kvm2"]), st.integers(0, 1200), st.integers(1, 200)), max_size=12
).map(lambda rows: [job(number, *row) for number, row in enumerate(rows)])


@given(jobs, st.integers(1, 200))
def test_no_host_is_drawn_beyond_its_limit_and_all_work_is_drawn(works, pieces):
    forecast = simulate(works, CAPACITY, START)
    found = lanes(forecast, ["kvm1", "kvm2"], LIMITS, START, END, pieces)
    assert [lane.host for lane in found] == ["kvm1", "kvm2"]
    for lane in found:
        assert len(lane.busy) == len(lane.waiting) == pieces
        assert lane.peak <= lane.limit
        inside = [
            planned for planned in forecast.planned if planned.job.host == lane.host and planned.start < END
        ]
        assert (lane.peak > 0) == bool(inside)
    for line in draw(found, START, END):
        assert cell_len(line.plain) == LABEL + pieces


def test_amber_is_where_others_wait():
    forecast = simulate([job(1, "kvm2", 60, 60), job(2, "kvm2", 60, 60)], CAPACITY, START)
    (lane,) = lanes(forecast, ["kvm2"], LIMITS, START, END, 24)
    assert lane.busy[:4] == (0, 1, 1, 0)
    assert lane.waiting[:4] == (False, True, False, False)


def test_ascii_tells_how_many():
    forecast = simulate([job(1, "kvm1", 0, 60), job(2, "kvm1", 0, 60)], CAPACITY, START)
    found = lanes(forecast, ["kvm1"], LIMITS, START, END, 24)
    assert draw(found, START, END, ascii_only=True)[1].plain.endswith("2" + "." * 23)
