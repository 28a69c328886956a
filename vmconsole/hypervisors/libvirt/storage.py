"""Where the disks of a restored guest go: a folder, or a pool of logical volumes.

Pools of folders are used as the folders they are; the pool is told to look again afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmconsole.errors import RestoreFailed, VmconsoleError
from vmconsole.hypervisors.libvirt import names
from vmconsole.hypervisors.libvirt.sections import MISSING, collect
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.hypervisors.libvirt.xml import parse
from vmconsole.model.point import DiskPoint, Mode
from vmconsole.remote.machine import Machine

DEFAULT_POOL = "default"
_FOLDER_POOLS = frozenset({"dir", "fs", "netfs"})
_FILE_FORMATS = frozenset({"qcow2", "raw"})
_RESERVE = 256 * 1024 * 1024
"""Bytes that stay free in a folder: a full file system stops guests."""

_LOOK = r"""
folder=$1; shift
part folder test -d "$folder"
part writable test -w "$folder"
part free df -Pk -- "$folder"
place=$folder
closed=
while [ -n "$place" ]; do
    case $(stat -L -c %A -- "$place") in d????????[xt]) ;; *) closed=$place ;; esac
    place=${place%/*}
done
part closed printf '%s\n' "$closed"
n=0
for name in "$@"; do
    path=$folder/$name
    try=0
    while [ -e "$path" ] || [ -L "$path" ]; do
        try=$((try + 1))
        case $name in
        *.*) path=$folder/${name%.*}-$try.${name##*.} ;;
        *) path=$folder/$name-$try ;;
        esac
    done
    part "$n" printf '%s\n' "$path"
    n=$((n + 1))
done
part end true
"""


@dataclass(frozen=True, slots=True)
class Storage:
    """folder: absolute path, empty for a pool of volumes. pool: its name, may be empty for a folder.

    devices: where a pool's volumes appear, such as /dev/GROUP. free: bytes, 0 when unknown.
    """

    folder: str
    pool: str = ""
    devices: str = ""
    free: int = 0


@dataclass(frozen=True, slots=True)
class Looked:
    """A folder that was looked at. paths: free names, one per wanted file. notes: for the user."""

    paths: tuple[str, ...]
    free: int
    notes: tuple[str, ...]


def find(virsh: Virsh, wanted: str) -> Storage:
    """What the user means by a storage name. Raises RestoreFailed."""
    if wanted.startswith("/"):
        return Storage(wanted.rstrip("/") or "/")
    pools = _lines(virsh.run("pool-list", "--all", "--name"))
    if not wanted and DEFAULT_POOL not in pools:
        return Storage(names.FALLBACK_FOLDER)
    pool = wanted or DEFAULT_POOL
    host = virsh.machine.name
    if pool not in pools:
        raise RestoreFailed(
            f"There is no storage pool {pool!r} on {host}; there is {', '.join(pools) or 'none'}.",
            hint="Name one of these, or a folder such as /var/lib/libvirt/images.",
            subject=host,
        )
    if pool not in _lines(virsh.run("pool-list", "--name")):
        if not wanted:
            return Storage(names.FALLBACK_FOLDER)
        raise RestoreFailed(
            f"The storage pool {pool!r} on {host} is not active.",
            hint=f"On the host: virsh pool-start {pool}",
            subject=host,
        )
    return _pool(virsh, pool)


def _pool(virsh: Virsh, pool: str) -> Storage:
    document = parse(virsh.run("pool-dumpxml", f"--pool={pool}"), "pool")
    kind = document.get("type", "")
    free = document.findtext("available", "").strip()
    path = document.findtext("target/path", "").strip()
    if kind in _FOLDER_POOLS and path.startswith("/"):
        return Storage(path.rstrip("/") or "/", pool)
    if kind == "logical" and path.startswith("/"):
        return Storage("", pool, path.rstrip("/"), int(free) if free.isdecimal() and len(free) < 20 else 0)
    raise RestoreFailed(
        f"Storage pools of type {kind or 'unknown'} ({pool} on {virsh.machine.name}) cannot take new disks.",
        hint="Name a folder, or a pool of type dir, fs, netfs or logical.",
        subject=virsh.machine.name,
    )


def format_for(disk: DiskPoint, storage: Storage) -> tuple[str, str]:
    """(format of the new disk, note for the user or empty)."""
    if not storage.folder:
        note = (
            f"Disk {disk.id} was {disk.format}; on logical volumes it is raw, and changes cannot be tracked."
        )
        return "raw", note if disk.format == "qcow2" else ""
    if disk.format in _FILE_FORMATS:
        return disk.format, ""
    return "qcow2", f"Disk {disk.id} was {disk.format or 'of an unknown format'}; it is restored as qcow2."


def look(machine: Machine, storage: Storage, wanted: Sequence[str], disks: Sequence[DiskPoint]) -> Looked:
    """Check the folder and find free file names in it. Raises RestoreFailed."""
    folder = storage.folder
    answers = collect(machine, _LOOK, [folder, *wanted])
    if not answers.get("folder", MISSING).ok:
        raise RestoreFailed(
            f"There is no folder {folder} on {machine.name}.",
            hint=f"On the host: mkdir -p {folder}, or name another place with --storage.",
            subject=machine.name,
        )
    if not answers.get("writable", MISSING).ok:
        raise RestoreFailed(
            f"The login user may not write to {folder} on {machine.name}.",
            hint="Log in to the host as root, or name another folder with --storage.",
            subject=machine.name,
        )
    paths = tuple(answers.get(str(n), MISSING).text.strip("\n") for n in range(len(wanted)))
    if "end" not in answers or not all(path.startswith(folder) for path in paths):
        raise RestoreFailed(f"{machine.name} did not say which names are free in {folder}.")
    free = _free(answers.get("free", MISSING).lines)
    notes = check_space(machine.name, folder, free, disks)
    closed = answers.get("closed", MISSING).text.strip()
    if closed:
        notes.append(
            f"{closed} is closed to other users: QEMU may not reach the disks "
            f"(on the host: chmod o+x {closed})."
        )
    return Looked(paths, free, tuple(notes))


def check_space(host: str, place: str, free: int, disks: Sequence[DiskPoint]) -> list[str]:
    """Raise RestoreFailed when what is known to be used does not fit; note when it might not.

    A full point says how much of a disk is used; an incremental only what had changed.
    """
    least = sum(disk.bytes_dirty for disk in disks)
    most = sum(disk.size if disk.mode is Mode.INCREMENTAL else disk.bytes_dirty for disk in disks)
    if free <= 0:
        return [f"How much space is free in {place} could not be found out; up to {_gib(most)} are needed."]
    if least + _RESERVE > free:
        raise RestoreFailed(
            f"{place} on {host} has {_gib(free)} free; the disks need at least {_gib(least)}.",
            hint="Free space there, or name another place with --storage.",
            subject=host,
        )
    if most + _RESERVE > free:
        return [f"{place} has {_gib(free)} free; the disks need between {_gib(least)} and {_gib(most)}."]
    return []


def create_volume(virsh: Virsh, pool: str, volume: str, size: int) -> None:
    """A new raw volume; whatever its blocks held before is still in it."""
    virsh.run("vol-create-as", f"--pool={pool}", f"--name={volume}", f"--capacity={size}", "--format=raw")


def delete_volume(virsh: Virsh, pool: str, volume: str) -> None:
    """Delete a volume if it is there."""
    if any(line.split(maxsplit=1)[0] == volume for line in _lines(virsh.run("vol-list", f"--pool={pool}"))):
        virsh.run("vol-delete", f"--vol={volume}", f"--pool={pool}")


def refresh(virsh: Virsh, pool: str) -> None:
    """Make new files known to the pool; it would find them itself some time."""
    try:
        virsh.run("pool-refresh", f"--pool={pool}")
    except VmconsoleError:
        return


def _free(lines: Sequence[str]) -> int:
    """The fourth column of `df -Pk`, in bytes."""
    words = lines[-1].split() if len(lines) > 1 else []
    return int(words[3]) * 1024 if len(words) > 3 and words[3].isdecimal() and len(words[3]) < 20 else 0


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _gib(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB"
