"""A guest being made on a host: its empty disks, filling them, defining it, and taking it all back.

Every new file gets two names: a hidden one that carries a random token, and, as a hard link to it, the final
one. The journal names both. Whatever bears the token is ours; a final name is removed only while
it is the same file as its hidden twin, so that nothing foreign is ever deleted, however late the
cleaning up happens. The hidden names go away when the guest is defined.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from vmconsole.disks.nbd.client import NbdClient
from vmconsole.errors import CommandFailed, GuestExists, HostError, RestoreFailed, VmconsoleError
from vmconsole.hypervisors.libvirt import storage
from vmconsole.hypervisors.libvirt.devicexml import NewDisk
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.hypervisors.served.filled import NbdDiskTarget
from vmconsole.hypervisors.served.qemunbd import Image, NbdServers, serve, sweep, write_options
from vmconsole.interfaces import Context, DiskTarget, GuestRestore
from vmconsole.model.point import DiskPoint

JOURNAL_KIND = "libvirt-create"
MAKE_SECONDS = 120.0

_MAKE = r"""
set -eu
umask 077
made() { # HIDDEN FINAL: never over something that is there
    ( set -C; : >"$1" )
    ln -- "$1" "$2"
}
case $1 in
disk) made "$2" "$3"; qemu-img create -q -f "$4" $5 -- "$3" "$6" ;;
file) made "$2" "$3"; cat >"$3" ;;
fill) [ "$2" -ef "$3" ]; cat >"$3" ;;
esac
"""

# `keep` once libvirt knows the guest: then its files are in use and only the hidden names go.
_UNMAKE = r"""
uri=$1 uuid=$2 undo=$3; shift 3
known=$(virsh -c "$uri" list --all --uuid) || exit 9
keep=
if printf '%s\n' "$known" | grep -qxF -- "$uuid"; then
    keep=1
    if [ "$undo" = undo ]; then
        off=$(virsh -c "$uri" list --all --state-shutoff --uuid) || exit 9
        if printf '%s\n' "$off" | grep -qxF -- "$uuid"; then
            virsh -c "$uri" undefine --nvram "$uuid" >/dev/null || exit 9
            keep=
        fi
    fi
fi
while [ $# -ge 2 ]; do
    if [ -f "$1" ]; then
        if [ -z "$keep" ] && [ "$1" -ef "$2" ]; then rm -f -- "$2"; fi
        rm -f -- "$1"
    fi
    shift 2
done
[ -n "$keep" ] && echo kept
exit 0
"""


@dataclass(frozen=True, slots=True)
class Making:
    """What is made for one guest; the journal's payload. files: (hidden, final) paths."""

    uri: str
    name: str
    uuid: str
    files: tuple[tuple[str, str], ...]
    pool: str = ""
    volumes: tuple[str, ...] = ()

    def payload(self) -> dict[str, str]:
        return {
            "uri": self.uri,
            "name": self.name,
            "uuid": self.uuid,
            "files": json.dumps(self.files),
            "pool": self.pool,
            "volumes": json.dumps(self.volumes),
        }

    @classmethod
    def read(cls, payload: Mapping[str, str]) -> Making:
        """Raises HostError when the payload is not one of ours."""
        try:
            files: Any = json.loads(payload["files"])
            volumes: Any = json.loads(payload["volumes"])
            return cls(
                uri=payload["uri"],
                name=payload["name"],
                uuid=str(UUID(payload["uuid"])),
                files=tuple((str(hidden), str(final)) for hidden, final in files),
                pool=payload["pool"],
                volumes=tuple(str(volume) for volume in volumes),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise HostError(f"The journal entry of a restore cannot be read: {error!r}.") from error


@dataclass(frozen=True, slots=True)
class Layout:
    """What will be made, and where each disk goes. nvram: path of the new variables file."""

    making: Making
    disks: Mapping[str, NewDisk]
    storage: storage.Storage
    nvram: str
    notes: tuple[str, ...]


class LibvirtTarget:
    """See GuestTarget. make() comes first; everything is in the journal before it is made."""

    def __init__(
        self,
        virsh: Virsh,
        layout: Layout,
        disks: Sequence[DiskPoint],
        document: bytes,
        notes: Sequence[str],
        request: GuestRestore,
        context: Context,
    ) -> None:
        self._virsh = virsh
        self._layout = layout
        self._disks = {disk.id: disk for disk in disks}
        self._document = document
        self._notes = tuple(notes)
        self._request = request
        self._context = context
        self._entry: int | None = None
        self._servers: NbdServers | None = None
        self._targets: dict[str, NbdDiskTarget] = {}
        self._defined = False

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    def make(self, nvram: bytes | None) -> None:
        """Make the empty disks and the NVRAM file. Leaves nothing when it fails."""
        making = self._layout.making
        self._entry = self._context.journal.acquire(self._virsh.machine.name, JOURNAL_KIND, making.payload())
        try:
            for number, disk in enumerate(self._disks.values()):
                place = self._layout.disks[disk.id]
                if place.kind == "block":
                    storage.create_volume(self._virsh, making.pool, making.volumes[number], disk.size)
                else:
                    self._make_image(*making.files[number], place.format, disk)
            if nvram is not None:
                self._script(_MAKE, ["file", *making.files[-1]], stdin=nvram)
        except BaseException:
            self.rollback()
            raise

    def open_disk(self, disk: DiskPoint) -> DiskTarget:
        """Raises RestoreFailed for a disk that the guest does not have, or that was opened before."""
        if disk.id not in self._disks or disk.id in self._targets:
            raise RestoreFailed(f"Disk {disk.id} is not one that is being restored.", subject=disk.id)
        if self._servers is None:
            self._servers = serve(
                self._virsh.machine,
                [
                    Image(
                        name,
                        write_options(place.path, place.format, block=place.kind == "block"),
                        writable=True,
                    )
                    for name, place in self._layout.disks.items()
                ],
            )
        client = NbdClient.connect(self._servers.connect(disk.id), disk.id, ())
        place = self._layout.disks[disk.id]
        target = NbdDiskTarget(client, disk.id, place.path, self._virsh.machine.name, self._context.cancel)
        self._targets[disk.id] = target
        if client.size < disk.size:
            raise RestoreFailed(f"The new disk {place.path} is smaller than disk {disk.id}.", subject=disk.id)
        if place.kind == "block":
            target.wipe(disk.size)
        return target

    def fill_nvram(self, data: bytes) -> None:
        """The firmware variables, when they come as late as the disks do."""
        self._script(_MAKE, ["fill", *self._layout.making.files[-1]], stdin=data)

    def finish(self) -> None:
        """Define the guest; start it when asked to.

        Raises RestoreFailed when a disk was not filled, GuestExists when the name was taken
        meanwhile. When only the start fails, the guest stays, whole and defined.
        """
        for name in self._disks:
            if name not in self._targets or not self._targets[name].closed:
                raise RestoreFailed(f"Disk {name} was not filled; the guest is not defined.", subject=name)
        if self._servers is not None:
            self._servers.stop()
        self._define()
        self._defined = True
        self._unmake("keep")
        self._release()
        if self._layout.storage.pool:
            storage.refresh(self._virsh, self._layout.storage.pool)
        if self._request.start:
            self._start()

    def rollback(self) -> None:
        """Remove what was made; nothing once the guest is defined."""
        for target in self._targets.values():
            target.abandon()
        if self._servers is not None:
            self._servers.close()
        if self._defined or self._entry is None:
            return
        # What cannot be removed now stays in the journal, for the next start or doctor --clean.
        with suppress(VmconsoleError):
            self._unmake("undo")
            self._release()

    def _make_image(self, hidden: str, final: str, image_format: str, disk: DiskPoint) -> None:
        options = "-o compat=1.1" if image_format == "qcow2" else ""
        self._script(_MAKE, ["disk", hidden, final, image_format, options, str(disk.size)])

    def _script(self, source: str, args: Sequence[str], stdin: bytes = b"") -> None:
        host = self._virsh.machine.name
        try:
            self._virsh.machine.script(source, args, stdin=stdin, timeout=MAKE_SECONDS)
        except CommandFailed as error:
            raise RestoreFailed(
                f"{args[2]} on {host} cannot be made: {error.stderr.strip() or error.message}",
                hint="Nothing was changed. Choose another place with --storage, or try again.",
                subject=host,
            ) from error

    def _define(self) -> None:
        making = self._layout.making
        try:
            self._virsh.run("define", "/dev/stdin", stdin=self._document)
        except CommandFailed as error:
            if "already exists" in error.message:
                raise GuestExists(
                    f"Somebody made a guest {making.name!r} on {self._virsh.machine.name} meanwhile.",
                    hint="Restore again under another name with --as NAME.",
                    subject=making.name,
                ) from error
            raise RestoreFailed(
                f"libvirt does not accept the restored guest: {error.message}",
                hint="Restore the disks alone with --to FOLDER and define a guest around them.",
                subject=making.name,
            ) from error

    def _start(self) -> None:
        making = self._layout.making
        try:
            self._virsh.run("start", making.uuid, timeout=180.0)
        except HostError as error:
            raise RestoreFailed(
                f"{making.name} is restored and defined, but does not start: {error.message}",
                hint=f"Change what is wrong (virsh edit {making.uuid}), then: virsh start {making.uuid}",
                subject=making.name,
            ) from error

    def _unmake(self, how: str) -> None:
        unmake(self._virsh, self._layout.making, undo=how == "undo")

    def _release(self) -> None:
        if self._entry is not None:
            self._context.journal.release(self._entry)
            self._entry = None


def unmake(virsh: Virsh, making: Making, *, undo: bool) -> bool:
    """Remove what was made, unless libvirt knows the guest. Returns whether the guest was kept.

    undo: also take back the definition, unless the guest runs already. Idempotent.
    """
    pairs = [path for pair in making.files for path in pair]
    done = virsh.machine.script(
        _UNMAKE, [making.uri, making.uuid, "undo" if undo else "keep", *pairs], timeout=MAKE_SECONDS
    )
    kept = "kept" in done.text.split()
    if not kept:
        for volume in making.volumes:
            storage.delete_volume(virsh, making.pool, volume)
    return kept


def clean_create(virsh: Virsh, payload: Mapping[str, str]) -> str:
    """Undo a restore that died. See Hypervisor.clean.

    A guest that libvirt knows is complete, because it is defined last: it stays, whoever uses it by now.
    """
    making = Making.read(payload)
    # Before its files go: a server that outlived its script would go on writing to them.
    sweep(virsh.machine)
    if unmake(virsh, making, undo=False):
        return f"The restore of {making.name} had finished; the guest stays."
    return f"Removed the unfinished restore of {making.name}."
