"""Guests of two hosts in one group: cut at the same moment, or not at all; and followed where they go."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from e2e_world import World, drop_checkpoints, sha256
from lab.domain import MIB, DiskSpec
from lab.guest import Guest
from lab.images import filesystem_problems, read_files
from lab.leftovers import leftovers
from lab.lockstep import check_lockstep
from lab.session import Lab
from lab.waiting import wait_for

pytestmark = [pytest.mark.rig, pytest.mark.timeout(300)]

DISKS = (DiskSpec("vda", size=32 * MIB, fs="ext4"), DiskSpec("vdb", size=32 * MIB))
BUDGET = 10.0


@pytest.fixture(scope="module")
def trio(lab: Lab) -> Iterator[list[Guest]]:
    with (
        lab.guest("shop-db", DISKS) as first,
        lab.guest("shop-web", DISKS) as second,
        lab.guest("shop-mail", DISKS, host=lab.second_host) as third,
    ):
        yield [first, second, third]


@pytest.fixture
def world(lab: Lab, trio: list[Guest], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    hosts = {"one": lab.host, "two": lab.second_host}
    limits = {"agent_timeout": "2 s", "freeze_budget": f"{BUDGET:g} s"}
    folder = tmp_path_factory.mktemp("together")
    with World(folder / "world", hosts, lab.folder("e2e-ssh"), defaults=limits) as made:
        group(made, trio)
        yield made
    for guest in trio:
        guest.agent_program("real")
        drop_checkpoints(guest)


def group(world: World, trio: list[Guest], more: str = "") -> None:
    names = ", ".join(f'"{guest.uuid}"' for guest in trio)
    world.configure()
    with world.config.open("a") as config:
        config.write(
            f"\n[groups.shop]\nguests = [{names}]\ntogether = true\n{more}\n[limits]\nper_host = 3\n"
        )


class Relay:
    """Writes step N to the first guest, when that has it on its disk to the second, and so on; then step N+1.

    Hence, at any one moment, an earlier guest's step is that of a later one, or one more.
    """

    def __init__(self, guests: Sequence[Guest]) -> None:
        self._guests = guests
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.step = 0
        """The newest that all have."""

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            wait_for(lambda: self.step >= 2, "the relay to begin")
            yield
        finally:
            self._enough.set()
            self._thread.join()

    def _write(self) -> None:
        while not self._enough.is_set():
            for guest in self._guests:
                # While it is frozen this waits.
                guest.sh(f"cd /mnt/vda && echo {self.step + 1} > new && mv new step && sync", timeout=60)
            self.step += 1


def points(world: World, trio: list[Guest]) -> list[dict]:
    return [world.newest(guest) for guest in trio]


def test_three_guests_on_two_hosts_are_cut_at_one_moment(world: World, trio: list[Guest]) -> None:
    for guest in trio:
        guest.lockstep_start("vda", "vdb")
    try:
        for mode in ("full", "incremental"):
            before = [guest.lockstep_step() for guest in trio]
            ran = world.run("backup", "--group", "shop")
            (told,) = ran.events("cut_together")
            steps = [(event["step"], event["event"]) for event in ran.documents if "step" in event]
            frozen = [index for index, step in enumerate(steps) if step == ("freeze", "step_finished")]
            cut = [index for index, step in enumerate(steps) if step == ("cut", "step_started")]
            assert len(frozen) == len(cut) == 3
            assert max(frozen) < min(cut), "nobody is cut before all are frozen"
            print(f"skew of three guests on two hosts, {mode}: {told['skew_ms']} ms")
            for guest, at_least, point in zip(trio, before, points(world, trio), strict=True):
                assert (point["mode"], point["consistency"]) == (mode, "application")
                assert point["together"]["skew_ms"] == told["skew_ms"] < BUDGET * 1000
                assert point["freeze_ms"] < BUDGET * 1000
                images = world.restore(point["archive"])
                check_lockstep([images["vda"], images["vdb"]], at_least)
                assert world.borg_sha256(point["archive"], "vda") == sha256(images["vda"])
                assert not guest.frozen()
    finally:
        for guest in trio:
            guest.lockstep_stop()
    world.borg_check()
    assert world.journal() == []


def test_what_is_restored_of_several_guests_is_of_one_moment(world: World, trio: list[Guest]) -> None:
    relay = Relay(trio)
    with relay.running():
        before = relay.step
        world.run("backup", "--group", "shop")
    steps = []
    for point in points(world, trio):
        image = world.restore(point["archive"], "vda")["vda"]
        assert filesystem_problems(image) == ""
        steps.append(int(read_files(image, ["step"])["step"]))
    print(f"steps of the three guests at the cut: {steps}, {before} before, {relay.step} after")
    assert steps[0] >= steps[1] >= steps[2] >= steps[0] - 1, steps
    assert before <= steps[2] < relay.step


def test_one_whose_agent_hangs_stops_all_and_nobody_stays_frozen(world: World, trio: list[Guest]) -> None:
    world.run("backup", "--group", "shop")
    known = [point["archive"] for point in points(world, trio)]
    trio[2].agent_hang()
    ran = world.run("backup", "--group", "shop", expect=1)
    assert {event["error"] for event in ran.events("guest_failed")} == {"NotTogether"}
    assert "shop-mail could not be frozen" in ran.events("guest_failed")[0]["message"]
    for guest in trio[:2]:
        wait_for(lambda guest=guest: not guest.frozen(), "the guest to be thawed")
    assert [point["archive"] for point in points(world, trio)] == known
    trio[2].agent_wake()
    wait_for(lambda: trio[2].agent_answers(), "the agent to answer")
    world.run("doctor", "--clean", expect=(0, 1, 3))
    wait_for(lambda: not trio[2].frozen(), "the third to be thawed")
    again = world.run("backup", "--group", "shop")
    assert len(again.events("cut_together")) == 1
    assert {point["mode"] for point in points(world, trio)} == {"incremental"}
    for guest, point in zip(trio, points(world, trio), strict=True):
        assert leftovers(guest) == [f"checkpoint {point['disks'][0]['bitmap']}"]


def test_or_each_is_backed_up_by_itself(world: World, trio: list[Guest]) -> None:
    group(world, trio, 'when_not_together = "apart"')
    trio[2].agent_program("none")
    ran = world.run("backup", "--group", "shop", expect=3)
    assert ran.events("cut_together") == []
    assert len(ran.events("point_made")) == 3
    assert [point["consistency"] for point in points(world, trio)] == ["application", "application", "crash"]
    assert all(point["together"] is None for point in points(world, trio))


def test_kill_9_while_all_wait_frozen(world: World, trio: list[Guest]) -> None:
    """Only the guards on the hosts are left, and they thaw."""
    at = {"event": "step_finished", "step": "freeze"}
    child = world.start("backup", "--group", "shop", trap={"do": "hold", "at": at})
    child.await_trap()
    assert any(guest.frozen() for guest in trio)
    child.kill()
    for guest in trio:
        wait_for(lambda guest=guest: not guest.frozen(), "the guest to be thawed", BUDGET + 20)
    again = world.run("backup", "--group", "shop", expect=(0, 3), timeout=240)  # a dead run's lock is told of
    assert len(again.events("point_made")) == 3
    for guest, point in zip(trio, points(world, trio), strict=True):
        assert leftovers(guest) == [f"checkpoint {point['disks'][0]['bitmap']}"]
    assert world.journal() == []
    world.borg_check()
