"""One disk into a new volume of a guest that is there: allocate, write, and leave it to be attached.

The volume's name carries a random token, so that taking it back can never hit anything else. When it
is whole, Proxmox is told to look at the guest's volumes and lists it as an unused disk.
"""

from __future__ import annotations

import re
from contextlib import suppress

from vmconsole.disks.nbd.client import NbdClient
from vmconsole.errors import HostError, RestoreFailed, VmconsoleError
from vmconsole.hypervisors.proxmox.api import failure
from vmconsole.hypervisors.proxmox.facts import StorageFacts
from vmconsole.hypervisors.proxmox.place import Cluster
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.served.filled import NbdDiskTarget
from vmconsole.hypervisors.served.qemunbd import Image, NbdServers, serve, write_options
from vmconsole.interfaces import Context
from vmconsole.model.point import DiskPoint
from vmconsole.model.run import JournalEntry
from vmconsole.remote.machine import Machine

JOURNAL_KIND = "proxmox-volume"
SECONDS = 300.0

_FILES = frozenset({"dir", "nfs", "cifs", "glusterfs", "cephfs", "btrfs"})
"""Storage types whose volumes are files, with their format as suffix."""
_ZEROED = frozenset({"lvmthin", "zfspool", "rbd", "zfs"})
"""Types whose new block devices read as zeros; what an old volume left is in all others."""
_ACTIVATE = "PVE::Storage::activate_volumes(PVE::Storage::config(), [@ARGV])"
_DEACTIVATE = "PVE::Storage::deactivate_volumes(PVE::Storage::config(), [@ARGV])"
_ABSENT = re.compile(r"does not exist|no such|not found|failed to find|can't find|cannot find", re.IGNORECASE)
_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*:(?:\d+/)?vm-\d+-vmc-[0-9a-f]{12,}(?:\.[a-z0-9]+)?")


class VolumeTarget:
    """A new volume, being filled; see DiskTarget. finish() after close(), or rollback().

    volume: as Proxmox names it.
    """

    def __init__(
        self,
        machine: Machine,
        node: str,
        storage: StorageFacts,
        vmid: int,
        disk: DiskPoint,
        host: str,
        token: str,
        context: Context,
    ) -> None:
        """machine: of the node. token: at least 12 hex digits. host: the configured name, for the journal.

        Raises RestoreFailed, HostError; then nothing is left.
        """
        files = storage.type in _FILES
        image_format = "qcow2" if files and disk.format == "qcow2" else "raw"
        name = f"vm-{vmid}-vmc-{token}" + (f".{image_format}" if files else "")
        self.volume = f"{storage.name}:{vmid}/{name}" if files else f"{storage.name}:{name}"
        self._machine = machine
        self._vmid = vmid
        self._context = context
        self._servers: NbdServers | None = None
        self._target: NbdDiskTarget | None = None
        payload = {"volume": self.volume, "node": node, "vmid": str(vmid)}
        self._entry: int | None = context.journal.acquire(host, JOURNAL_KIND, payload)
        try:
            size = str(-(-disk.size // 1024))
            self._run("pvesm", "alloc", storage.name, str(vmid), name, size, "--format", image_format)
            self._run("perl", "-MPVE::Storage", "-e", _ACTIVATE, self.volume)
            path = self._run("pvesm", "path", self.volume).strip()
            self._target = self._open(path, image_format, disk, storage)
        except BaseException:
            self.rollback()
            raise

    def write(self, offset: int, data: bytes | memoryview) -> None:
        assert self._target is not None
        self._target.write(offset, data)

    def close(self) -> None:
        assert self._target is not None
        self._target.close()

    def finish(self) -> None:
        """The volume is whole: hand it to Proxmox. Raises RestoreFailed when it was not closed."""
        if self._target is None or not self._target.closed or self._servers is None:
            raise RestoreFailed(f"The volume {self.volume} was not filled.", subject=self.volume)
        self._servers.stop()
        self._run("perl", "-MPVE::Storage", "-e", _DEACTIVATE, self.volume)
        if self._entry is not None:
            self._context.journal.release(self._entry)
            self._entry = None
        self._run("qm", "rescan", "--vmid", str(self._vmid))

    def rollback(self) -> None:
        """Free the volume, unless it is whole. Never raises."""
        if self._target is not None:
            self._target.abandon()
        if self._servers is not None:
            self._servers.close()
        if self._entry is None:
            return
        # What cannot be freed now stays in the journal, for the next start or doctor --clean.
        with suppress(VmconsoleError):
            free(self._machine, self.volume)
            self._context.journal.release(self._entry)
            self._entry = None

    def _open(self, path: str, image_format: str, disk: DiskPoint, storage: StorageFacts) -> NbdDiskTarget:
        if not path.startswith("/"):
            raise RestoreFailed(
                f"The volume {self.volume} is not reached by a path ({path[:100]}).",
                hint="For a Ceph storage, switch krbd on; or restore the whole guest instead.",
                subject=storage.name,
            )
        block = path.startswith("/dev/")
        self._servers = serve(
            self._machine,
            [Image(disk.id, write_options(path, image_format, block=block), writable=True)],
        )
        client = NbdClient.connect(self._servers.connect(disk.id), disk.id, ())
        target = NbdDiskTarget(client, disk.id, self.volume, self._machine.name, self._context.cancel)
        if client.size < disk.size:
            target.abandon()
            raise RestoreFailed(f"The new volume {self.volume} is smaller than disk {disk.id}.")
        if block and storage.type not in _ZEROED:
            target.wipe(client.size)
        return target

    def _run(self, *argv: str) -> str:
        return _run(self._machine, *argv)


def clean_volume(nodes: Cluster, settings: ProxmoxSettings, entry: JournalEntry) -> str:
    """Undo a restore of one disk that died. See Hypervisor.clean."""
    del settings
    volume = entry.payload.get("volume", "")
    if not _VOLUME.fullmatch(volume):
        raise HostError(f"The journal entry of a restored volume cannot be read: {volume[:80]!r}.")
    free(nodes.machine(entry.payload.get("node", "")), volume)
    return f"Removed the unfinished volume {volume}."


def free(machine: Machine, volume: str) -> None:
    """Free a volume if it is there."""
    done = machine.run(["pvesm", "free", volume], timeout=SECONDS, check=False)
    if done.status and not _ABSENT.search(done.errors):
        raise failure(done.errors, host=machine.name, what=f"pvesm free {volume}", status=done.status)


def _run(machine: Machine, *argv: str) -> str:
    done = machine.run(list(argv), timeout=SECONDS, check=False)
    if done.status:
        what = " ".join(argv[:3])
        raise failure(done.errors or done.text, host=machine.name, what=what, status=done.status)
    return done.text
