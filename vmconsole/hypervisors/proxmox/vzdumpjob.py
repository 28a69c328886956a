"""One vzdump on a node, writing to us, and what to do about one that was left behind.

vzdump holds the guest's config lock (`backup`) and ends by itself when nobody reads it any more. One
that was killed leaves the lock: it is removed only if nothing else can have set it, see `end()`.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from vmconsole.errors import BackupFailed, HostError, ProtocolError, VmconsoleError
from vmconsole.hypervisors.proxmox.facts import PveGuest
from vmconsole.hypervisors.proxmox.guestconf import digest
from vmconsole.hypervisors.proxmox.refusals import full_name
from vmconsole.interfaces import Context
from vmconsole.model.guest import GuestKind
from vmconsole.remote.command import printable
from vmconsole.remote.machine import Machine, Process

KIND = "proxmox-vzdump"
ANSWER = "vmconsole-vzdump"
SILENCE = 1800.0
"""Seconds without a byte after which vzdump is given up: a container without snapshots is copied first."""
TIDYING = 1800.0
"""Seconds for vzdump to remove its snapshot, and to run its hook scripts, after the last byte."""
ENDING = 30
_LOOK = 0.5
"""Seconds between looks at the cancel token while nothing comes."""
_START_SECONDS = 60.0
_NOISE = 100
"""Lines that a node's login scripts may print before."""
_SHOWN = 300
_STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


@dataclass(frozen=True, slots=True)
class Mark:
    """Which vzdump, of which guest. digest: of the configuration when it was planned, without a lock."""

    node: str
    vmid: int
    name: str
    kind: GuestKind
    conf: str
    digest: str
    boot: str
    pid: str
    start: str

    def payload(self) -> dict[str, str]:
        return {
            "node": self.node,
            "vmid": str(self.vmid),
            "name": self.name,
            "kind": self.kind.value,
            "conf": self.conf,
            "digest": self.digest,
            "boot": self.boot,
            "pid": self.pid,
            "start": self.start,
        }

    @classmethod
    def read(cls, payload: Mapping[str, str]) -> Mark:
        """Raises ProtocolError when the journal's entry is not one of payload()."""
        try:
            values = {key: payload[key] for key in ("node", "name", "conf", "digest", "boot", "pid", "start")}
            return cls(vmid=int(payload["vmid"]), kind=GuestKind(payload["kind"]), **values)
        except (KeyError, ValueError) as error:
            raise ProtocolError(f"A journal entry about vzdump cannot be read: {error!r}.") from error


class VzdumpJob:
    """For one thread. The constructor starts it, and has it in the journal before it does anything.

    Raises GuestBusy, BackupFailed, HostError, Cancelled.
    """

    def __init__(self, machine: Machine, host: str, guest: PveGuest, context: Context) -> None:
        self.who = full_name(guest, host)
        self._machine = machine
        self._guest = guest
        self._context = context
        self._entry: int | None = None
        self._mark: Mark | None = None
        self._failure: VmconsoleError | None = None
        self._ended = False
        self._finished = False
        run = command(guest, context.pace.limit())
        self._process: Process = machine.start(["sh", "-c", _source(), "vmconsole", "run", *run])
        try:
            self._mark = _mark(guest, self._first_answer())
            self._entry = context.journal.acquire(host, KIND, self._mark.payload())
            self._process.write(b"go\n")
            self._process.close_stdin()
        except BaseException:
            self.abandon()
            raise

    def read(self, size: int) -> bytes:
        """What there is of the stream, at most size bytes; empty at its end, which is not yet success."""
        clock = self._context.clock
        deadline = clock.monotonic() + SILENCE
        while not self._ended:
            self._context.cancel.check()
            try:
                data = self._process.read(size, _LOOK)
            except TimeoutError:
                if clock.monotonic() > deadline:
                    raise BackupFailed(
                        f"vzdump of {self.who} sent nothing for {SILENCE / 60:.0f} minutes.",
                        hint=f"Look at its task in Proxmox's log. It said last: {self.last_line()}",
                        subject=self._guest.name,
                    ) from None
                continue
            if data:
                self._keep_pace(len(data))
                return data
            self._ended = True
        return b""

    def _keep_pace(self, length: int) -> None:
        """Leave the rest in the pipe for a while, where that slows down nobody but vzdump.

        Never a machine's: QEMU copies what the guest overwrites into the same pipe before it lets the
        guest go on, so a pipe that is full stops the guest. vzdump keeps to --bwlimit there.
        """
        pace = self._context.pace
        if self._guest.kind is GuestKind.VM:
            pace.took(length)
            return
        while (seconds := pace.wait(length)) > 0:
            self._context.cancel.wait(min(seconds, _LOOK))
        pace.came(length, 0.0)

    def finish(self) -> None:
        """The stream was read to its end: wait for vzdump. Raises BackupFailed when it did not succeed."""
        if self._finished:
            return
        clock = self._context.clock
        deadline = clock.monotonic() + TIDYING
        while True:
            self._context.cancel.check()
            try:
                status = self._process.wait(_LOOK).status
                break
            except TimeoutError:
                if clock.monotonic() > deadline:
                    raise BackupFailed(
                        f"vzdump of {self.who} does not end.",
                        hint=f"Look at its task in Proxmox's log. It said last: {self.last_line()}",
                        subject=self._guest.name,
                    ) from None
        if status:
            self._failure = self._failed(status)
            raise self._failure
        self._finished = True

    def explain(self, error: VmconsoleError) -> NoReturn:
        """Raise why the stream is not what it should be: what vzdump says, where it has ended already."""
        if self._ended:
            self.finish()
        self._failure = BackupFailed(
            f"{self.who}: {error.message}", hint=error.hint, subject=self._guest.name
        )
        raise self._failure from error

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def log(self) -> list[str]:
        """What it has said so far, line by line."""
        text = self._process.stderr.decode("utf-8", "replace").replace("\r", "\n")
        return [printable(_STAMP.sub("", line).strip()) for line in text.split("\n") if line.strip()]

    def last_line(self) -> str:
        return next((line[:_SHOWN] for line in reversed(self.log())), "nothing")

    def settle(self) -> None:
        """It ended well: it has removed its lock."""
        self._process.close()
        self._forget()

    def abandon(self) -> None:
        """End it, and see to the lock. What cannot be done now stays in the journal. Never raises."""
        try:
            self._process.close()
            if self._entry is not None and self._mark is not None:
                end(self._machine, self._mark)
                self._forget()
        except (VmconsoleError, OSError):
            pass  # The next run, or `vmconsole doctor --clean`, finds the entry.

    def _forget(self) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            self._context.journal.release(entry)

    def _first_answer(self) -> list[str]:
        for _ in range(_NOISE):
            try:
                line = self._process.read_line(_START_SECONDS).decode("utf-8", "replace")
            except TimeoutError as error:
                raise HostError(f"{self._machine.name} does not start vzdump.") from error
            words = line.split()
            if words[:1] == [ANSWER] and len(words) == 4:
                return words[1:]
            if not line:
                break
        raise HostError(
            f"No program could be started on {self._machine.name}: {self.last_line()}",
            subject=self._machine.name,
        )

    def _failed(self, status: int) -> BackupFailed:
        lines = self.log()
        errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
        said = (errors or lines or [f"it ended with status {status} and gave no reason"])[-1]
        return BackupFailed(
            f"vzdump of {self.who} failed: {said[:_SHOWN]}",
            hint="Its whole log is in the task list of the node.",
            subject=self._guest.name,
        )


def command(guest: PveGuest, limit: int = 0) -> list[str]:
    """limit: bytes per second, 0 for what /etc/vzdump.conf says.

    --dumpdir is needed: a `storage` in /etc/vzdump.conf would rule --stdout out.
    """
    where = ["--stdout", "--dumpdir", "/var/tmp"]  # noqa: S108 - vzdump's own folder within it has a safe name
    limited = ["--bwlimit", str(max(1, limit // 1024))] if limit else []
    return ["vzdump", str(guest.vmid), *where, "--mode", "snapshot", "--compress", "0", *limited]


def _mark(guest: PveGuest, answer: list[str]) -> Mark:
    boot, pid, start = answer
    return Mark(
        node=guest.node,
        vmid=guest.vmid,
        name=guest.name,
        kind=guest.kind,
        conf=guest.place.path,
        digest=digest(guest.conf),
        boot=boot,
        pid=pid,
        start=start,
    )


def end(machine: Machine, mark: Mark) -> str:
    """End a vzdump, and remove its lock if it is proven to be its own. Idempotent. Returns a sentence.

    Proven: the guest was not locked when vzdump was started, it is locked for a backup now, nothing
    else in its configuration has changed, and no vzdump works on it any more. Raises HostError when
    something is left.
    """
    arguments = ["end", mark.boot, mark.pid, mark.start, str(ENDING), str(mark.vmid), mark.conf]
    done = machine.script(_source(), arguments, timeout=ENDING + 60)
    words = next((line.split() for line in done.text.splitlines() if line.startswith(f"{ANSWER} ")), [])[1:]
    tool = "pct" if mark.kind is GuestKind.CONTAINER else "qm"
    who = f"{mark.name} ({mark.vmid})"
    if words[:1] != ["ended"]:
        raise HostError(
            f"vzdump still works on {who} on {machine.name}.",
            hint="Let it end, or stop its task in Proxmox; then: vmconsole doctor --clean",
            subject=machine.name,
        )
    _, found, lock, *_ = (*words, "", "", "")
    if lock != "backup":
        return f"vzdump of {who} has ended on {machine.name}; no lock of it is left."
    if found != mark.digest:
        raise HostError(
            f"{who} on {machine.name} is still locked for a backup, and its configuration has changed since "
            "vzdump was started, so the lock may be somebody else's.",
            hint=f"If no backup of it runs: {tool} unlock {mark.vmid}; then: vmconsole doctor --clean",
            subject=machine.name,
        )
    machine.run([tool, "unlock", str(mark.vmid)])
    return f"vzdump of {who} has ended on {machine.name}; the lock it left was removed."


def _source() -> str:
    return importlib.resources.files(__package__).joinpath("vzdump.sh").read_text(encoding="utf-8")
