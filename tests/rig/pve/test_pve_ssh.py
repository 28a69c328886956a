"""The same over a real SSH connection, also one that breaks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.waiting import wait_for
from rig_sshd import Sshd

from pve.bench import MIB, STUBS, Bench
from pve.qemu import qemu10
from vmconsole.errors import HostError
from vmconsole.model.point import Mode
from vmconsole.remote.ssh import SshMachine
from vmconsole.remote.ssh_settings import SshSettings

pytestmark = pytest.mark.rig


@pytest.fixture(params=["access", "reserved"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Bench, Sshd]]:
    path = f"{STUBS}:{os.environ['PATH']}"
    options = {"SetEnv": f"PVE_STUBS={tmp_path}/stubs PERL5LIB={STUBS} HOME={tmp_path} PATH={path}"}
    (tmp_path / "ssh").mkdir()
    with (
        Sshd(tmp_path / "ssh", options) as server,
        Bench(tmp_path, layout="blockdev", program=qemu10(), access=request.param == "access") as made,
    ):
        machine = SshMachine(
            SshSettings(
                name="pve1",
                address=server.address,
                known_hosts=server.write_known_hosts(tmp_path / "known"),
                identity_files=(server.client_key_path,),
                use_agent=False,
            )
        )
        made.nodes.local = machine
        yield made, server
        machine.close()


def test_full_increment_and_a_connection_that_breaks(bench: tuple[Bench, Sshd]) -> None:
    guest, server = bench
    guest.write("scsi0", 1, 0, 8 * MIB)
    guest.backup()
    assert all(guest.same(key) for key in guest.keys)
    guest.write("virtio1", 2, 3 * MIB, MIB)
    second = guest.backup()
    assert {disk.plan.mode for disk in second.disks} == {Mode.INCREMENTAL}
    assert all(guest.same(key) for key in guest.keys)

    guest.write("virtio1", 3, 9 * MIB, MIB)
    export = guest.open()
    assert server.cut()
    guest.wait_clean()
    with pytest.raises(HostError):
        wait_for(export.check, "the end of the connection to be noticed")
    export.rollback()
    assert not guest.journal.entries

    last = guest.backup()
    assert {disk.plan.mode for disk in last.disks} == {Mode.INCREMENTAL}
    assert all(guest.same(key) for key in guest.keys)
    assert not guest.leftovers()
