"""A Proxmox cluster for the tests of this folder; cluster.py says what it can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from lab.session import Lab

from pve.cluster import PveCluster
from pve.guest import PveContainer, PveGuest
from pve.victim import Victim, victim_of
from pve.ways import WAYS
from pve.world import PveWorld


@pytest.fixture(scope="session")
def pve(lab: Lab) -> Iterator[PveCluster]:
    """The session's cluster, two nodes; it takes a second to start."""
    with PveCluster(lab.folder("pve"), lab.image) as cluster:
        yield cluster


@pytest.fixture
def make_vm(pve: PveCluster) -> Iterator[Callable[..., PveGuest]]:
    """`pve.vm`, and the machines are removed when the test ends."""
    with ExitStack() as stack:
        yield lambda *args, **more: _kept(stack, pve.vm(*args, **more))


@pytest.fixture
def make_container(pve: PveCluster) -> Iterator[Callable[..., PveContainer]]:
    with ExitStack() as stack:
        yield lambda *args, **more: _kept(stack, pve.container(*args, **more))


@pytest.fixture
def pve_world(pve: PveCluster, tmp_path: Path) -> Iterator[PveWorld]:
    """A backup server whose host `pve` is the cluster, and the whole command line: see e2e_world."""
    with PveWorld(tmp_path / "world", pve) as world:
        yield world


@pytest.fixture(scope="module", params=["access", "transaction"])
def victim(
    request: pytest.FixtureRequest, pve: PveCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Victim]:
    """A guest with a restore point that writes all the time, for each way of reading a running one; victim.py."""
    chosen = {"access": WAYS["access-10"], "transaction": WAYS["reserved-7"]}[request.param]
    with victim_of(pve, chosen, tmp_path_factory.mktemp("victim")) as made:
        yield made


def _kept(stack: ExitStack, guest: Any) -> Any:
    stack.callback(guest.remove)
    return guest
