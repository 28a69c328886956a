"""Restores onto a real libvirt: what is made, what is refused, and what is left when it breaks off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from lab.access import SshAccess, ssh_access
from lab.domain import MIB, DiskSpec
from lab.guest import Guest
from lab.session import Lab
from lab.waiting import wait_for
from libvirt_bench import Bench

from vmconsole.errors import GuestExists, RestoreFailed, VmconsoleError
from vmconsole.hypervisors.libvirt.create import create_guest
from vmconsole.hypervisors.libvirt.target import clean_create
from vmconsole.interfaces import GuestRestore
from vmconsole.model.point import Consistency, DiskPoint, Mode, RestorePoint

pytestmark = pytest.mark.rig

PIECE = 256 * 1024
DISKS = (
    DiskSpec("vda", fs="ext4", content={"hello": b"from before the backup\n"}),
    DiskSpec("vdb", size=32 * MIB, format="raw"),
)


@pytest.fixture(scope="module")
def source(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A guest that was backed up: its point, its archive members, its disks as raw files."""
    folder = tmp_path_factory.mktemp("archive")
    with lab.guest("original", DISKS) as guest:
        guest.pattern("vdb", 3 * MIB, 5 * MIB, seed=7)
        document = guest.virsh("dumpxml", "--inactive").encode()
        guest.poweroff()
        raws = {disk.id: guest.raw_copy(disk.id, folder / disk.id) for disk in DISKS}
        yield SimpleNamespace(
            guest=guest, raws=raws, point=_point(guest), files={"config/libvirt.xml": document}
        )


def _point(guest: Guest) -> RestorePoint:
    disks = tuple(
        DiskPoint(d.id, f"disks/{d.id}.raw", d.size, d.driver, Mode.FULL, bytes_dirty=8 * MIB) for d in DISKS
    )
    when = datetime(2026, 1, 2, tzinfo=UTC)
    return RestorePoint(
        "original.x-1", guest.name, guest.uuid, "vmc-one", "libvirt", when, Consistency.OFFLINE, disks
    )


@pytest.fixture
def bench(lab: Lab) -> Bench:
    return Bench(lab.host)


@pytest.fixture
def place(lab: Lab) -> Path:
    return lab.folder(f"restored-{datetime.now(UTC).timestamp():f}")


def fill(target, raws: dict[str, Path], disk: DiskPoint) -> None:
    """As a run does: data only, zeros are there already."""
    sink = target.open_disk(disk)
    with raws[disk.id].open("rb") as file:
        offset = 0
        while piece := file.read(PIECE):
            if any(piece):
                sink.write(offset, piece)
            offset += len(piece)
    sink.close()


def restored_raw(guest: Guest, disk: str, driver: str, place: Path) -> bytes:
    source = guest.xml().find(f"devices/disk/target[@dev='{disk}']/../source").get("file")
    target = place / f"{disk}.check"
    guest.host.run(["qemu-img", "convert", "-U", "-f", driver, "-O", "raw", source, str(target)])
    return target.read_bytes()


def adopt(lab: Lab, name: str) -> Guest:
    return lab.adopt(next(uuid for uuid, known in lab.host.domains().items() if known == name))


def test_a_restored_guest_holds_the_same_data_and_boots(lab: Lab, source, bench: Bench, place: Path) -> None:
    request = GuestRestore("restored one", str(place), start=True)

    target = create_guest(bench.virsh, source.point, source.files, request, bench.context)
    for disk in source.point.disks:
        fill(target, source.raws, disk)
    target.finish()

    guest = adopt(lab, "restored one")
    try:
        assert guest.uuid != source.guest.uuid
        guest.wait_until_ready()
        assert guest.sh("cat /mnt/vda/hello") == "from before the backup\n"
        guest.agent("guest-ping")
        guest.poweroff()
        assert restored_raw(guest, "vdb", "raw", place) == source.raws["vdb"].read_bytes()
        assert sorted(file.name for file in place.glob("restored*")) == [
            "restored-one-vda.qcow2",
            "restored-one-vdb.raw",
        ]
        assert not list(place.glob(".*"))
        assert not bench.journal.entries
        # Sparse: the restore wrote what the archive calls data, and nothing else.
        assert (place / "restored-one-vdb.raw").stat().st_blocks * 512 < 16 * MIB
    finally:
        guest.remove()


def test_the_same_name_again_is_refused_with_nothing_changed(
    lab: Lab, source, bench: Bench, place: Path
) -> None:
    before = lab.host.domains()

    with pytest.raises(GuestExists):
        create_guest(
            bench.virsh, source.point, source.files, GuestRestore("original", str(place)), bench.context
        )

    assert lab.host.domains() == before
    assert not list(place.iterdir())
    assert bench.journal.count == 0


def test_a_name_taken_during_the_restore_is_refused_and_the_other_guest_stays(
    lab: Lab, source, bench: Bench, place: Path
) -> None:
    target = create_guest(
        bench.virsh, source.point, source.files, GuestRestore("contested", str(place)), bench.context
    )
    for disk in source.point.disks:
        fill(target, source.raws, disk)
    with lab.guest("contested", start=False) as other:
        with pytest.raises(GuestExists):
            target.finish()
        target.rollback()

        assert lab.host.domains()[other.uuid] == "contested"
        assert other.images["vda"].exists()
    assert not list(place.iterdir())
    assert not bench.journal.entries


def test_files_of_the_same_name_are_left_alone(lab: Lab, source, bench: Bench, place: Path) -> None:
    old = place / "again-vda.qcow2"
    old.write_bytes(b"somebody else's disk")

    target = create_guest(
        bench.virsh, source.point, source.files, GuestRestore("again", str(place)), bench.context
    )
    assert (place / "again-vda-1.qcow2").exists()
    target.rollback()
    target.rollback()

    assert [file.name for file in place.iterdir()] == ["again-vda.qcow2"]
    assert old.read_bytes() == b"somebody else's disk"


def test_a_restore_that_died_is_cleaned_up_whole(lab: Lab, source, bench: Bench, place: Path) -> None:
    target = create_guest(
        bench.virsh, source.point, source.files, GuestRestore("dead", str(place)), bench.context
    )
    sink = target.open_disk(source.point.disks[1])
    sink.write(0, bytes(range(256)) * 1024)
    # Dead: nobody answers the host's shell any more, and nothing else is done here.
    target._servers._process.close()  # type: ignore[union-attr]
    sink.abandon()  # type: ignore[attr-defined]
    before = lab.host.domains()

    said = clean_create(bench.virsh, bench.journal.entry().payload)

    assert "dead" in said
    assert not list(place.iterdir())
    assert lab.host.domains() == before
    assert clean_create(bench.virsh, bench.journal.entry().payload) == said


def test_cleaning_up_never_touches_files_that_were_put_in_place_of_ours(
    lab: Lab, source, bench: Bench, place: Path
) -> None:
    create_guest(bench.virsh, source.point, source.files, GuestRestore("swapped", str(place)), bench.context)
    ours = place / "swapped-vda.qcow2"
    ours.unlink()
    ours.write_bytes(b"the user's own")

    clean_create(bench.virsh, bench.journal.entry().payload)

    assert [file.name for file in place.iterdir()] == ["swapped-vda.qcow2"]
    assert ours.read_bytes() == b"the user's own"


def test_a_guest_that_was_defined_before_the_death_stays(
    lab: Lab, source, bench: Bench, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = create_guest(
        bench.virsh, source.point, source.files, GuestRestore("finished", str(place)), bench.context
    )
    for disk in source.point.disks:
        fill(target, source.raws, disk)
    monkeypatch.setattr(target, "_unmake", lambda how: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        target.finish()

    clean_create(bench.virsh, bench.journal.entry().payload)

    guest = adopt(lab, "finished")
    try:
        assert sorted(file.name for file in place.iterdir()) == ["finished-vda.qcow2", "finished-vdb.raw"]
        guest.start()
    finally:
        guest.remove()


def test_an_unfilled_disk_is_never_handed_out(lab: Lab, source, bench: Bench, place: Path) -> None:
    target = create_guest(
        bench.virsh, source.point, source.files, GuestRestore("half", str(place)), bench.context
    )
    fill(target, source.raws, source.point.disks[0])

    with pytest.raises(RestoreFailed, match="vdb"):
        target.finish()
    target.rollback()

    assert "half" not in lab.host.domains().values()
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    ("storage", "words"),
    [("/no/such/folder", "no folder"), ("nopool", "no storage pool 'nopool'"), ("-x", "no storage pool")],
)
def test_storage_that_is_not_there_is_named(source, bench: Bench, storage: str, words: str) -> None:
    with pytest.raises(RestoreFailed, match=words):
        create_guest(bench.virsh, source.point, source.files, GuestRestore("nowhere", storage), bench.context)
    assert bench.journal.count == 0


def test_too_little_space_is_said_before_anything_is_made(lab: Lab, source, bench: Bench) -> None:
    small = lab.folder("small")
    lab.host.tmpfs(small, 4)

    with pytest.raises(RestoreFailed, match="GiB free"):
        create_guest(
            bench.virsh, source.point, source.files, GuestRestore("toolarge", str(small)), bench.context
        )
    assert not list(lab.host.path(small).iterdir())


def test_storage_that_runs_full_fails_the_restore_and_leaves_nothing(lab: Lab, source, bench: Bench) -> None:
    small = lab.folder("filling")
    lab.host.tmpfs(small, 300)
    target = create_guest(
        bench.virsh, source.point, source.files, GuestRestore("full", str(small)), bench.context
    )
    inside = lab.host.path(small)
    with (inside / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 297 * MIB)
    sink = target.open_disk(source.point.disks[1])

    def go_on() -> None:
        for offset in range(0, 16 * MIB, MIB):
            sink.write(offset, b"x" * MIB)
        sink.close()

    with pytest.raises(RestoreFailed, match="no space left") as caught:
        go_on()
    assert str(small) in caught.value.message
    with pytest.raises(RestoreFailed):
        target.finish()
    target.rollback()
    assert [file.name for file in inside.iterdir()] == ["ballast"]
    assert not bench.journal.entries


@pytest.fixture
def pool(lab: Lab) -> Iterator[str]:
    folder = lab.folder("pool")
    lab.host.virsh("pool-create-as", "labpool", "dir", "--target", str(folder))
    yield "labpool"
    lab.host.virsh("pool-destroy", "labpool")


def test_a_pool_of_folders_knows_the_new_volumes(lab: Lab, source, bench: Bench, pool: str) -> None:
    target = create_guest(
        bench.virsh, source.point, source.files, GuestRestore("pooled", pool), bench.context
    )
    for disk in source.point.disks:
        fill(target, source.raws, disk)
    target.finish()

    guest = adopt(lab, "pooled")
    try:
        volumes = lab.host.virsh("vol-list", pool)
        assert "pooled-vda.qcow2" in volumes
        assert "pooled-vdb.raw" in volumes
    finally:
        guest.remove()


def test_firmware_variables_come_back(lab: Lab, source, bench: Bench, place: Path) -> None:
    loader = place / "OVMF_CODE.fd"
    loader.write_bytes(bytes(MIB))
    files = dict(source.files)
    files["config/libvirt.xml"] = source.files["config/libvirt.xml"].replace(
        b"</os>",
        f"<loader readonly='yes' type='pflash'>{loader}</loader><nvram>/old/VARS.fd</nvram></os>".encode(),
    )
    files["firmware/nvram.fd"] = b"boot entries" * 1000

    target = create_guest(bench.virsh, source.point, files, GuestRestore("uefi", str(place)), bench.context)
    for disk in source.point.disks:
        fill(target, source.raws, disk)
    target.finish()

    guest = adopt(lab, "uefi")
    try:
        path = guest.xml("--inactive").findtext("os/nvram")
        assert path == str(place / "uefi_VARS.fd")
        assert Path(path).read_bytes() == files["firmware/nvram.fd"]
    finally:
        guest.remove()


def test_starting_without_the_network_is_refused_before_anything_is_made(
    lab: Lab, source, bench: Bench, place: Path
) -> None:
    xml = "<network><name>idle</name><ip address='192.168.250.1' netmask='255.255.255.0'/></network>"
    lab.host.virsh("net-define", "/dev/stdin", stdin=xml)
    card = b"<interface type='network'><source network='idle'/></interface></devices>"
    files = {"config/libvirt.xml": source.files["config/libvirt.xml"].replace(b"</devices>", card)}
    try:
        with pytest.raises(RestoreFailed, match=r"'idle'.* is not active"):
            create_guest(
                bench.virsh, source.point, files, GuestRestore("net", str(place), start=True), bench.context
            )
    finally:
        lab.host.virsh("net-undefine", "idle")
    assert not list(place.iterdir())


# --- hosts that are not like the old one ---


def edited(source, *changes: tuple[str, str]) -> dict[str, bytes]:
    document = source.files["config/libvirt.xml"].decode()
    for old, new in changes:
        assert old in document
        document = document.replace(old, new)
    return {"config/libvirt.xml": document.encode()}


def test_an_unknown_machine_type_becomes_the_newest_of_its_kind(
    lab: Lab, source, bench: Bench, place: Path
) -> None:
    machine = source.guest.xml("--inactive").find("os/type").get("machine")
    files = edited(source, (machine, "pc-q35-99.9"), ("/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm"))

    target = create_guest(bench.virsh, source.point, files, GuestRestore("newer", str(place)), bench.context)
    notes = "\n".join(target.notes)
    assert "pc-q35-99.9" in notes
    assert "/usr/libexec/qemu-kvm" in notes
    for disk in source.point.disks:
        fill(target, source.raws, disk)
    target.finish()

    guest = adopt(lab, "newer")
    try:
        assert guest.xml("--inactive").find("os/type").get("machine") == machine
        assert guest.xml("--inactive").findtext("devices/emulator") == "/usr/bin/qemu-system-x86_64"
    finally:
        guest.remove()


@pytest.mark.parametrize(
    "change", [("arch='x86_64'", "arch='vax'"), ("<vcpu", "<vcpu current='x'"), ("type='qemu'", "type='xen'")]
)
def test_a_guest_this_host_cannot_run_is_refused_before_anything_is_made(
    lab: Lab, source, bench: Bench, place: Path, change: tuple[str, str]
) -> None:
    with pytest.raises(RestoreFailed) as caught:
        create_guest(
            bench.virsh, source.point, edited(source, change), GuestRestore("odd", str(place)), bench.context
        )
    assert caught.value.hint
    assert bench.journal.count == 0
    assert not list(place.iterdir())


# --- over SSH ---


@pytest.fixture
def access(lab: Lab, bench: Bench) -> Iterator[SshAccess]:
    with ssh_access(lab.host, lab.folder("ssh-restore")) as one:
        bench.use(one.machine)
        yield one


def test_over_ssh_a_restored_guest_holds_the_same_data(
    lab: Lab, source, bench: Bench, place: Path, access: SshAccess
) -> None:
    target = create_guest(
        bench.virsh, source.point, source.files, GuestRestore("ssh", str(place)), bench.context
    )
    for disk in source.point.disks:
        fill(target, source.raws, disk)
    target.finish()

    guest = adopt(lab, "ssh")
    try:
        for disk, driver in (("vda", "qcow2"), ("vdb", "raw")):
            assert restored_raw(guest, disk, driver, place) == source.raws[disk].read_bytes()
    finally:
        guest.remove()


def test_a_connection_that_is_cut_fails_the_restore_and_the_host_ends_what_it_ran(
    lab: Lab, source, bench: Bench, place: Path, access: SshAccess
) -> None:
    target = create_guest(
        bench.virsh, source.point, source.files, GuestRestore("cut", str(place)), bench.context
    )
    disk = source.point.disks[1]
    sink = target.open_disk(disk)
    sink.write(0, b"x" * MIB)
    access.sshd.cut()

    def go_on() -> None:
        for offset in range(0, disk.size, MIB):
            sink.write(offset, b"y" * MIB)
        sink.close()

    with pytest.raises(VmconsoleError):
        go_on()
    target.rollback()
    wait_for(
        lambda: not [line for line in lab.host.processes().values() if "qemu-nbd" in line],
        "the disk servers to end",
        20,
    )
    if bench.journal.entries:
        clean_create(Bench(lab.host).virsh, bench.journal.entry().payload)
    assert not list(place.iterdir())
    assert "cut" not in lab.host.domains().values()
