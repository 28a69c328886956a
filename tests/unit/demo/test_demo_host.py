from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vmconsole.config.load import load
from vmconsole.demo import partition
from vmconsole.demo.disk import GRANULE, runs
from vmconsole.demo.shop import Shop
from vmconsole.disks.nbd.client import NbdClient
from vmconsole.errors import UsageError, VmconsoleError
from vmconsole.remote.ssh import SshMachine

DIRTY = "qemu:dirty-bitmap:backup-vda"


def begin(shop: Shop, guest: str, run: str, base: str = "") -> Path:
    """A pull job of the first disk; returns its socket."""
    socket = shop.ssh.sockets / f"{run}.sock"
    start = f"<incremental>{base}</incremental>" if base else ""
    shop.host.begin(
        shop.guest(guest),
        f"<domainbackup mode='pull'>{start}<server transport='unix' socket='{socket}'/><disks>"
        f"<disk name='vda' backup='yes' type='file'>"
        f"<scratch file='{shop.folder}/host/scratch/{run}'/></disk></disks></domainbackup>",
        f"<domaincheckpoint><name>{run}</name>"
        "<disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>",
    )
    return socket


def read_all(client: NbdClient) -> bytes:
    content = bytearray(client.size)
    for offset, piece in client.read([(0, client.size)]):
        content[offset : offset + len(piece)] = piece
    return bytes(content)


def test_the_export_is_the_cut_while_the_guest_writes(
    shop: Shop, machine: SshMachine, fsck: Callable[..., None], tmp_path: Path
) -> None:
    guest = shop.guest("db-01")
    disk = guest.disks[0].disk
    guest.freeze()
    socket = begin(shop, "db-01", "n1")
    guest.thaw()
    client = NbdClient.connect(machine.open_unix(str(socket)), "vda", ("base:allocation",))
    job = shop.host.job(guest)
    assert job is not None
    first = read_all(client)
    deadline = time.monotonic() + 10
    while job.scratch_bytes < 5 * 65536:
        assert time.monotonic() < deadline, "the guest does not write"
        time.sleep(0.01)
    second = read_all(client)
    assert first == second
    assert second != disk.read_at(0, disk.size)
    shop.host.end_job(guest)
    client.abandon()
    now = datetime.now(UTC)
    assert shop.cut_sha256(guest.uuid, "vda", run="n1", time=now) == hashlib.sha256(first).hexdigest()
    assert not socket.exists()
    # The copy, cut in a freeze, is clean, and so is the disk now that the writer has stopped.
    image = tmp_path / "copy"
    image.write_bytes(first)
    fsck(image, partition.START)
    fsck(disk.path, partition.START)

    # The next night's map names what changed since, and nothing but that differs.
    shop.night(2)
    socket = begin(shop, "db-01", "n2", base="n1")
    client = NbdClient.connect(machine.open_unix(str(socket)), "vda", ("base:allocation", DIRTY))
    found = client.block_status()
    dirty = [(offset, length) for offset, length, flags in found[DIRTY] if flags]
    rebuilt = bytearray(first)
    for offset, piece in client.read(dirty):
        rebuilt[offset : offset + len(piece)] = piece
    holes = [(offset, offset + length) for offset, length, flags in found["base:allocation"] if flags == 3]
    changed = {at for offset, length in dirty for at in range(offset, offset + length, 65536)}
    assert any(start <= at < end for at in changed for start, end in holes), "dirty, and a hole now"
    shop.host.end_job(guest)
    client.abandon()
    assert shop.cut_sha256(guest.uuid, "vda", run="n2", time=now) == hashlib.sha256(rebuilt).hexdigest()
    shop.host.delete_checkpoint(guest, "n1", metadata_only=False)
    assert list(disk.bitmaps) == ["n2"]


def test_every_file_system_is_clean_before_and_after_a_day(shop: Shop, fsck: Callable[..., None]) -> None:
    for night in (1, 2, 3):
        if night > 1:
            shop.night(night)
        for guest in shop.guests:
            for item in guest.disks:
                with item.disk.path.open("rb") as image:
                    image.seek(510)
                    start = partition.START if image.read(2) == b"\x55\xaa" else 0
                fsck(item.disk.path, start)


def test_a_day_changes_little(shop: Shop) -> None:
    for guest in shop.guests:
        for item in guest.disks:
            item.disk.bitmaps["day"] = bytearray(len(item.disk.allocated))
    before = shop.guest("web-01").disks[1].disk.size
    shop.night(2)
    changed = {guest.name: sum(item.disk.dirty_bytes("day") for item in guest.disks) for guest in shop.guests}
    size = sum(item.disk.size for guest in shop.guests for item in guest.disks)
    assert changed.pop("build-07") == 0
    assert all(changed.values())
    assert sum(changed.values()) < size / 100
    assert shop.guest("web-01").disks[1].disk.size > before


def test_every_demo_has_the_same_disks(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        with Shop(tmp_path / name) as shop:
            shop.night(2)
            digests.append(
                {
                    (guest.uuid, item.target, start): hashlib.sha256(
                        item.disk.read_at(start * GRANULE, (end - start) * GRANULE)
                    ).hexdigest()
                    for guest in shop.guests
                    for item in guest.disks
                    for start, end in runs(item.disk.allocated, 1)
                }
            )
        shutil.rmtree(tmp_path / name)
    assert digests[0] == digests[1]
    assert len(digests[0]) >= 5


def test_the_configuration_is_valid(shop: Shop) -> None:
    config = load(shop.write_config())
    host = config.host("kvm1")
    assert host.identity_files == (shop.ssh.client_key,)
    assert Path(host.scratch).is_dir()
    assert config.group("nightly").selector.hosts == ("kvm1", "pve")
    assert list(config.host("pve").nodes) == ["pve1", "pve2"]
    passphrase = shop.folder / "passphrase"
    assert passphrase.stat().st_mode & 0o777 == 0o600
    kept = passphrase.read_text()
    shop.write_config()
    assert passphrase.read_text() == kept


def test_it_starts_again_in_its_own_folder_only(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "demo")
    with shop:
        with pytest.raises(UsageError, match="runs in"):
            Shop(tmp_path / "demo").start()
        assert shop.host.find("web-01") is not None
    shop.stop()
    with Shop(tmp_path / "demo") as again:
        assert {guest.uuid for guest in again.guests} == {guest.uuid for guest in shop.guests}
    (tmp_path / "other" / "host").mkdir(parents=True)
    (tmp_path / "other" / "host" / "precious").write_text("mine")
    with pytest.raises(UsageError, match="not a demo's"):
        Shop(tmp_path / "other").start()
    assert (tmp_path / "other" / "host" / "precious").read_text() == "mine"


def test_what_a_killed_demo_left_is_removed(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from vmconsole.demo.shop import Shop\n"
        "shop = Shop(Path(sys.argv[1])); shop.start()\n"
        "print(shop.ssh.sockets, flush=True); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "demo")], capture_output=True, text=True, check=False
    )
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    with Shop(tmp_path / "demo"):
        assert not left.exists()


def test_a_guest_that_powers_off_ends_its_job(shop: Shop, machine: SshMachine) -> None:
    guest = shop.guest("db-01")
    socket = begin(shop, "db-01", "n1")
    client = NbdClient.connect(machine.open_unix(str(socket)), "vda", ("base:allocation",))
    folder = shop.host.folders.lib / guest.folder_name
    assert folder.is_dir()
    shop.host.shut_off(guest)
    assert shop.host.job(guest) is None
    assert not folder.exists()
    with pytest.raises(VmconsoleError):
        list(client.read([(0, 4096)]))
    client.abandon()
    # libvirt: the bitmap outlives QEMU, in the image.
    assert "n1" in guest.disks[0].disk.bitmaps
    shop.host.start(guest)
    assert guest.running


def test_stopping_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    shop = Shop(tmp_path / "demo")
    shop.start()
    sockets = shop.ssh.sockets
    begin(shop, "db-01", "n1")
    shop.guest("web-01").freeze()
    shop.stop()
    assert set(threading.enumerate()) <= before
    assert not sockets.exists()
    assert not list((shop.folder / "host" / "scratch").iterdir())
    assert not list((shop.folder / "host" / "witnesses").iterdir())


def test_a_cut_that_never_was(shop: Shop) -> None:
    with pytest.raises(LookupError):
        shop.cut_sha256(shop.guest("db-01").uuid, "vda", run="n1", time=datetime.now(UTC))
