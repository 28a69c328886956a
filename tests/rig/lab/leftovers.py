"""What a backup or restore may have left behind on a guest and its host."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lab.control import GuestSilent
from lab.guest import Guest
from lab.host import LibvirtHost

_LIBVIRTS_OWN = re.compile(
    r"/var/lib/libvirt/qemu/("
    r"domain-[^/]+/(monitor\.sock|master-key\.aes)"
    r"|channel/target/domain-[^/]+/org\.qemu\.guest_agent\.0"
    r"|(checkpoint|snapshot|save|nvram|ram|dump)/.*)"
)
_DAEMONS = ("libvirtd ", "virtlogd ", "/usr/bin/qemu-system-", "cat", "sshd: ")
_FOLDERS = ("/var/lib/libvirt", "/tmp", "/run/vmc*", "/var/lib/vmc*")


def leftovers(guest: Guest) -> list[str]:
    """Everything out of the ordinary, in words; empty when a guest and its host are as nothing had been."""
    return [*guest_leftovers(guest), *host_leftovers(guest.host)]


def guest_leftovers(guest: Guest) -> list[str]:
    """A job, checkpoints, snapshots, overlays, strange files beside its disks, a freeze or a pause."""
    return list(_of_guest(guest))


def host_leftovers(host: LibvirtHost) -> list[str]:
    """Files that are not libvirt's, and processes that nobody waits for any more.

    Processes below a live SSH session are not counted: close the machine first.
    """
    return [f"file {path}" for path in _files(host)] + [f"process {line}" for line in _orphans(host)]


def _of_guest(guest: Guest) -> Iterator[str]:
    if job := guest.job():
        yield f"job {job}"
    yield from (f"checkpoint {name}" for name in guest.checkpoints())
    yield from (f"snapshot {name}" for name in guest.virsh("snapshot-list", "--name").split())
    if guest.images:
        yield from _strange_files(guest)
    state = guest.state()
    if state not in {"running", "shut off"}:
        yield f"state {state}"
    if state == "running":
        yield from _inside(guest)


def _strange_files(guest: Guest) -> Iterator[str]:
    expected = {str(path) for path in guest.images.values()}
    sources = {str(source.get("file")) for source in guest.xml().iterfind("devices/disk/source")}
    yield from (f"disk source {source}" for source in sorted(sources - expected))
    yield from (f"disk gone {source}" for source in sorted(expected - sources))
    for path in sorted(guest.folder.rglob("*")) if guest.folder else ():
        if str(path) not in expected and path.name != "console.log":
            yield f"file {path}"


def _inside(guest: Guest) -> Iterator[str]:
    try:
        if guest.frozen():
            yield "frozen file systems"
    except GuestSilent as silence:
        yield f"guest does not answer: {silence}"


def _files(host: LibvirtHost) -> list[str]:
    """Anything but folders, among what is libvirt's on the host and where vmconsole could leave things."""
    done = host.run(["sh", "-c", f"find {' '.join(_FOLDERS)} ! -type d 2>/dev/null; true"])
    return [path for path in done.stdout.splitlines() if not _LIBVIRTS_OWN.fullmatch(path)]


def _orphans(host: LibvirtHost) -> list[str]:
    """Processes that the host's first process has inherited, and their children, but for the daemons."""
    listing = host.run(["ps", "-e", "-o", "pid=,ppid=,stat=,args="]).stdout
    rows = [line.split(None, 3) for line in listing.splitlines()]
    orphans = {pid for pid, parent, *_ in rows if parent == "1"}
    return [
        f"{pid} {args}" for pid, _, stat, args in rows
        if pid in orphans and not stat.startswith("Z") and not args.startswith(_DAEMONS)
    ]  # fmt: skip
