"""Our end of guard.pl: the program on the node that holds a guest's export and outlives us.

It is handed a document and steps, see document.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from vmconsole.errors import (
    BackupFailed,
    GuestBusy,
    GuestStopped,
    HostError,
    HostUnreachable,
    OutOfSpace,
)
from vmconsole.hypervisors.held.cutting import CutReport, Cutting, Phase
from vmconsole.hypervisors.held.line import GuardLine
from vmconsole.hypervisors.proxmox.api import NO_QUORUM, no_quorum
from vmconsole.hypervisors.proxmox.document import Document
from vmconsole.hypervisors.proxmox.graph import Step
from vmconsole.hypervisors.proxmox.loose import parse_json
from vmconsole.interfaces import Together
from vmconsole.remote.machine import Machine, Process

_STEP_SECONDS = 400.0
"""Between two lines of an answer: making a volume may take five minutes."""
_CUT_SECONDS = 150.0
_END_SECONDS = 600.0
_START_SECONDS = 200.0
_NO_CONFIG = re.compile(r"configuration file '[^']*' does not exist", re.IGNORECASE)
_ALARMS = ("space", "stopped", "gave-up", "late-thaw", "no-events")


@dataclass(frozen=True, slots=True)
class State:
    """Of the guest, now. word: QEMU's run state, `gone` or `unknown`. exports: how many are ours."""

    word: str
    exports: int


@cache
def source() -> str:
    room = files("vmconsole.hypervisors.proxmox")
    parts = [room.joinpath(name).read_text("utf-8") for name in ("guard.pl", "monitor.pl")]
    return "\n".join([*parts, "main();"])


class Guard:
    """A running guard. Thread-safe. Methods raise HostUnreachable when it is gone."""

    def __init__(self, process: Process, document: Document, host: str) -> None:
        self._line = GuardLine(process, host, _ALARMS, document.silence, _END_SECONDS)
        self._document = document
        self._host = host
        self._cutting: Cutting | None = None

    @classmethod
    def start(cls, machine: Machine, document: Document) -> Guard:
        """Take the guest's lock and hold it. Raises GuestBusy, HostError, what Machine.start raises."""
        process = machine.start(["perl", "-e", source(), "--", "hold"])
        guard = cls(process, document, machine.name)
        try:
            guard._line.send(document.text)
            guard._begin()
        except BaseException:
            guard._line.close()
            raise
        guard._line.live()
        return guard

    def do(self, steps: Sequence[Step]) -> dict[str, Any]:
        """Carry steps out; the results that were to be kept, by name. Raises BackupFailed."""
        with self._line.lock:
            self._line.send("do " + json.dumps(steps, separators=(",", ":")))
            results: dict[str, Any] = {}
            while True:
                word, rest = self._line.answer(_STEP_SECONDS)
                if word == "result":
                    name, _, value = rest.partition(" ")
                    results[name] = parse_json(value)
                elif word == "done":
                    return results
                elif word == "failed":
                    raise self._refused(rest)

    def cut(
        self, steps: Sequence[Step], phase: Phase, together: Together | None = None
    ) -> tuple[CutReport, dict[str, Any]]:
        """Freeze, carry the steps out, thaw. Raises BackupFailed, GuestBusy, NotTogether."""
        results: dict[str, Any] = {}

        def keep(word: str, rest: str) -> None:
            if word == "result":
                name, _, value = rest.partition(" ")
                results[name] = parse_json(value)

        with self._line.lock:
            self._line.send(("meet " if together else "cut ") + json.dumps(steps, separators=(",", ":")))
            self._cutting = Cutting(phase, together)
            return self._cutting.follow(self._line, _CUT_SECONDS, self._refused, keep), results

    def check(self) -> None:
        """Raise OutOfSpace or GuestStopped when the guard said so, HostUnreachable when it is gone."""
        with self._line.lock:
            self._line.drain()
            for alarm in self._line.alarms:
                self._raise_alarm(alarm)

    def state(self) -> State:
        """Look now. Raises as check()."""
        with self._line.lock:
            self.check()
            self._line.send("status")
            words = self._line.expect({"state"}, _CUT_SECONDS)[1].split()
            self.check()
        word = words[0] if words else "unknown"
        if word == "gone":
            raise self._stopped()
        count = words[1] if len(words) > 1 else "0"
        return State(word, int(count) if count.isdigit() else 0)

    @property
    def freeze_pending(self) -> bool:
        """Whether the guest may be frozen, or may yet be by an agent that hangs, though cut() has ended."""
        return self._cutting is not None and self._cutting.report.pending

    @property
    def thawed_late(self) -> bool:
        """A freeze that was pending is over for certain."""
        with self._line.lock:
            return "late-thaw" in self._line.alarms

    @property
    def events_missing(self) -> bool:
        with self._line.lock:
            return any(alarm.startswith("no-events") for alarm in self._line.alarms)

    def commit(self, *, frozen: bool = False) -> str:
        """Finish, and end. Returns what could not be finished, empty when all was.

        frozen: that the guest may be frozen is in the journal, and nothing else need wait for its agent.

        Raises HostUnreachable when everything had been undone before.
        """
        try:
            with self._line.lock:
                self._line.send("commit frozen" if frozen else "commit")
                word, rest = self._line.expect({"committed", "stuck", "lost"}, _END_SECONDS)
            if word == "lost":
                raise HostUnreachable(f"The guard on {self._host} has undone its work.", subject=self._host)
            return rest if word == "stuck" else ""
        finally:
            self._line.close()

    def rollback(self, *, frozen: bool = False) -> str:
        """Undo everything, and end. Returns what is left, empty when nothing is. frozen: as for commit()."""
        try:
            with self._line.lock:
                self._line.send("rollback frozen" if frozen else "rollback")
                return self._line.expect({"clean", "stuck"}, _END_SECONDS)[1]
        finally:
            self._line.close()

    def _begin(self) -> None:
        word, rest = self._line.expect({"hello", "locked", "busy", "failed"}, _START_SECONDS)
        if word == "failed":
            raise HostError(f"The guard on {self._host} cannot begin: {rest}", subject=self._host)
        if word == "locked" and NO_QUORUM.search(rest):
            raise no_quorum(self._host)
        if word == "locked" and _NO_CONFIG.search(rest):
            raise GuestBusy(
                f"Guest {self._document.vmid} is not on {self._host} any more: {rest}",
                hint="It has moved to another node, or was removed; try again.",
                subject=self._host,
            )
        if word != "hello":
            raise GuestBusy(
                f"Guest {self._document.vmid} on {self._host} cannot be locked: {rest}",
                hint="Let whatever holds it finish. If nothing works on it any more: "
                f"vmconsole doctor --clean, or on its node: qm unlock {self._document.vmid}",
                subject=self._host,
            )

    def _refused(self, text: str) -> BackupFailed:
        vmid = self._document.vmid
        if "QEMU is gone" in text:
            return self._stopped()
        if "previous backup for target" in text or "another program" in text or "already running" in text:
            return GuestBusy(
                f"Another backup works on guest {vmid} on {self._host}: {text}",
                hint="Keep two backup programs off the same guest at the same time.",
            )
        if "No space left" in text or "not enough free space" in text.lower():
            return OutOfSpace(
                f"There is no space for what guest {vmid} on {self._host} overwrites: {text}",
                hint="Free space there, or set another `fleecing` for this host.",
            )
        return BackupFailed(f"The export of guest {vmid} on {self._host} failed: {text}")

    def _raise_alarm(self, alarm: str) -> None:
        word, _, rest = alarm.partition(" ")
        if word == "space":
            watch = self._document.watch or {}
            place = watch.get("folder") or watch.get("storage")
            raise OutOfSpace(
                f"Only {rest} bytes were left in {place} on {self._host}; the backup was ended before it "
                "ran full.",
                hint="Free space there, or set another `fleecing` for this host.",
            )
        if word == "stopped":
            raise self._stopped()

    def _stopped(self) -> GuestStopped:
        return GuestStopped(
            f"Guest {self._document.vmid} on {self._host} was stopped while it was read.",
            hint="Back it up again; earlier restore points are untouched.",
        )


def clean(machine: Machine, document: str) -> str:
    """Undo what a vanished run left. document: Document.text. Returns what is left, empty when nothing is."""
    command = ["perl", "-e", source(), "--", "clean"]
    done = machine.run(command, stdin=document.encode() + b"\n", timeout=_END_SECONDS, check=False)
    lines = [line[2:] for line in done.text.splitlines() if line.startswith("@ ")]
    if "clean" in lines:
        return ""
    stuck = (line.removeprefix("stuck").strip() for line in lines if line.startswith("stuck"))
    return next(stuck, done.errors[:300].strip()) or "no answer"
