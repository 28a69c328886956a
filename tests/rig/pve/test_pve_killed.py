"""kill -9 of the backup at every step, by both ways of reading a running guest: its node is as it was, the
repository clean, the next backup right."""

from __future__ import annotations

from typing import Any

import pytest

from pve.node import PveNode
from pve.victim import READ, Victim, run_of

pytestmark = [pytest.mark.rig, pytest.mark.timeout(300)]

KILLS: dict[str, dict[str, Any]] = {
    "lock": {"event": "step_finished", "step": "lock"},
    "freeze": {"event": "step_started", "step": "freeze"},
    "cut": {"event": "step_started", "step": "cut"},
    "thaw": {"event": "step_started", "step": "thaw"},
    "read": READ,
    "release": {"event": "step_started", "step": "release"},
    "commit": {"event": "step_started", "step": "commit"},
    "advance": {"event": "step_started", "step": "advance"},
    "advanced": {"event": "step_finished", "step": "advance"},
}


@pytest.mark.parametrize("when", KILLS)
def test_killed_at(when: str, victim: Victim) -> None:
    with victim.held(KILLS[when]) as child:
        assert victim.vm.lock == ("" if when == "advanced" else "backup")
        dead = run_of(child)
        child.kill()
    victim.await_clean_node()
    victim.bitmaps_are_of(dead if when == "advanced" else victim.run)
    if when in {"advance", "advanced"}:
        (committed,) = victim.stored() - victim.archives
        victim.archives.add(committed)
    victim.next_backup_is_right()


def test_the_next_backup_comes_at_once(victim: Victim) -> None:
    """The dead run's guard may be at work still, and its lock is in the repository."""
    with victim.held(READ) as child:
        child.kill()
    victim.next_backup_is_right()


def kill_guards(node: PveNode) -> None:
    """kill -9 of the guard and of its watcher."""
    found = [number for number, line in node.processes().items() if line.endswith("-- hold")]
    assert len(found) >= 2
    node.run("kill", "-KILL", *map(str, found))


@pytest.mark.parametrize("when", ["read", "advance"])
def test_killed_together_with_its_guard(when: str, victim: Victim) -> None:
    """Nobody on the node knows any more; what is known is in the journal, for doctor and for the next backup."""
    by_doctor = (victim.method == "access") == (when == "read")
    with victim.held(KILLS[when]) as child:
        kill_guards(victim.node)
        child.kill()
    more = victim.stored() - victim.archives
    assert len(more) == (when == "advance")
    victim.archives |= more
    assert "lock backup" in victim.left()
    assert victim.world.journal()
    if by_doctor:
        victim.world.clean()
        assert victim.left() == []
        assert victim.world.journal() == []
        victim.world.borg_check("--verify-data")
        victim.bitmaps_are_of(victim.run)
    victim.next_backup_is_right()
