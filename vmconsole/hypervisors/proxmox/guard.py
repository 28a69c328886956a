"""Our end of guard.pl: the program on the node that holds a guest's export and outlives us.

It is handed a document and steps, see document.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from vmconsole.errors import BackupFailed, GuestBusy, GuestStopped, HostError, HostUnreachable, OutOfSpace
from vmconsole.hypervisors.proxmox.document import Document
from vmconsole.hypervisors.proxmox.graph import Step
from vmconsole.hypervisors.proxmox.loose import parse_json
from vmconsole.remote.machine import Machine, Process

_STEP_SECONDS = 400.0
"""Between two lines of an answer: making a volume may take five minutes."""
_CUT_SECONDS = 150.0
_END_SECONDS = 600.0
_START_SECONDS = 200.0
_ALARMS = ("space", "stopped", "gave-up", "late-thaw", "no-events")


@dataclass(frozen=True, slots=True)
class CutReport:
    """frozen: the guest was frozen from before the cut until after it. freeze_ms: how long.

    early: the timer on the node thawed it before the cut was made. pending: a freeze may still be in
    force, or be carried out later by an agent that hangs now. reason: why it was not frozen.
    """

    frozen: bool = False
    freeze_ms: int | None = None
    early: bool = False
    pending: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """Of the guest, now. word: QEMU's run state, `gone` or `unknown`. exports: how many are ours."""

    word: str
    exports: int


Phase = Callable[[str, float | None], None]


@cache
def source() -> str:
    room = files("vmconsole.hypervisors.proxmox")
    parts = [room.joinpath(name).read_text("utf-8") for name in ("guard.pl", "monitor.pl")]
    return "\n".join([*parts, "main();"])


class Guard:
    """A running guard. Thread-safe. Methods raise HostUnreachable when it is gone."""

    def __init__(self, process: Process, document: Document, host: str) -> None:
        self._process = process
        self._document = document
        self._host = host
        self._lock = threading.RLock()
        self._alarms: list[str] = []
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="vmconsole-guard", daemon=True)

    @classmethod
    def start(cls, machine: Machine, document: Document) -> Guard:
        """Take the guest's lock and hold it. Raises GuestBusy, HostError, what Machine.start raises."""
        process = machine.start(["perl", "-e", source(), "--", "hold"])
        guard = cls(process, document, machine.name)
        try:
            guard._send(document.text)
            guard._begin()
        except BaseException:
            guard._close()
            raise
        guard._beats.start()
        return guard

    def do(self, steps: Sequence[Step]) -> dict[str, Any]:
        """Carry steps out; the results that were to be kept, by name. Raises BackupFailed."""
        with self._lock:
            self._send("do " + json.dumps(steps, separators=(",", ":")))
            results: dict[str, Any] = {}
            while True:
                word, rest = self._answer(_STEP_SECONDS)
                if word == "result":
                    name, _, value = rest.partition(" ")
                    results[name] = parse_json(value)
                elif word == "done":
                    return results
                elif word == "failed":
                    raise self._refused(rest)

    def cut(self, steps: Sequence[Step], phase: Phase) -> tuple[CutReport, dict[str, Any]]:
        """Freeze, carry the steps out, thaw. phase hears `freeze`, `cut` and `thaw` with None when each
        begins, and with its seconds when it has succeeded. Raises BackupFailed, GuestBusy.
        """
        with self._lock:
            self._send("cut " + json.dumps(steps, separators=(",", ":")))
            report = CutReport()
            results: dict[str, Any] = {}
            froze = 0.0
            while True:
                word, rest = self._answer(_CUT_SECONDS)
                if word == "freezing":
                    phase("freeze", None)
                elif word == "froze":
                    froze = _seconds(rest)
                    phase("freeze", froze)
                    report = CutReport(frozen=True)
                elif word == "unfrozen":
                    pending, _, reason = rest.partition(" ")
                    report = CutReport(pending=pending == "yes", reason=reason.strip())
                elif word == "cutting":
                    phase("cut", None)
                elif word == "result":
                    name, _, value = rest.partition(" ")
                    results[name] = parse_json(value)
                elif word == "cut":
                    phase("cut", _seconds(rest))
                    if report.frozen:
                        phase("thaw", None)
                elif word in ("thawed", "unthawed"):
                    report = _thawed(word, rest)
                    if not report.pending:
                        phase("thaw", max(0.0, _seconds(rest) - froze))
                elif word == "ready":
                    return report, results
                elif word == "failed":
                    raise self._refused(rest)

    def check(self) -> None:
        """Raise OutOfSpace or GuestStopped when the guard said so, HostUnreachable when it is gone."""
        with self._lock:
            self._drain()
            for alarm in self._alarms:
                self._raise_alarm(alarm)

    def state(self) -> State:
        """Look now. Raises as check()."""
        with self._lock:
            self.check()
            self._send("status")
            words = self._expect({"state"}, _CUT_SECONDS).split()
            self.check()
        word = words[0] if words else "unknown"
        if word == "gone":
            raise self._stopped()
        count = words[1] if len(words) > 1 else "0"
        return State(word, int(count) if count.isdigit() else 0)

    @property
    def thawed_late(self) -> bool:
        """A freeze that was pending is over for certain."""
        with self._lock:
            return "late-thaw" in self._alarms

    @property
    def events_missing(self) -> bool:
        with self._lock:
            return any(alarm.startswith("no-events") for alarm in self._alarms)

    def commit(self) -> str:
        """Finish, and end. Returns what could not be finished, empty when all was.

        Raises HostUnreachable when everything had been undone before.
        """
        try:
            with self._lock:
                self._send("commit")
                while True:
                    word, rest = self._answer(_END_SECONDS)
                    if word == "committed":
                        return ""
                    if word == "stuck":
                        return rest
                    if word == "lost":
                        raise HostUnreachable(
                            f"The guard on {self._host} has undone its work.", subject=self._host
                        )
        finally:
            self._close()

    def rollback(self) -> str:
        """Undo everything, and end. Returns what is left, empty when nothing is."""
        try:
            with self._lock:
                self._send("rollback")
                while True:
                    word, rest = self._answer(_END_SECONDS)
                    if word in ("clean", "stuck"):
                        return rest
        finally:
            self._close()

    def _begin(self) -> None:
        while True:
            word, rest = self._answer(_START_SECONDS)
            if word == "hello":
                return
            if word in ("locked", "busy"):
                raise GuestBusy(
                    f"Guest {self._document.vmid} on {self._host} cannot be locked: {rest}",
                    hint="Let whatever holds it finish. If nothing works on it any more: "
                    f"vmconsole doctor --clean, or on its node: qm unlock {self._document.vmid}",
                    subject=self._host,
                )
            if word == "failed":
                raise HostError(f"The guard on {self._host} cannot begin: {rest}", subject=self._host)

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

    def _expect(self, words: set[str], timeout: float) -> str:
        while True:
            word, rest = self._answer(timeout)
            if word in words:
                return rest

    def _answer(self, timeout: float) -> tuple[str, str]:
        """The next line of the guard; alarms are put aside and handed over too."""
        while True:
            try:
                line = self._process.read_line(timeout)
            except TimeoutError as error:
                raise HostUnreachable(f"The guard on {self._host} is silent.", subject=self._host) from error
            if not line:
                raise HostUnreachable(
                    f"The guard on {self._host} ended; it undoes its work when it loses us.",
                    hint="If something is left on the node: vmconsole doctor --clean",
                    subject=self._host,
                )
            text = line.decode("utf-8", "replace").strip()
            if text.startswith("@ "):
                word, _, rest = text[2:].partition(" ")
                if word in _ALARMS:
                    self._alarms.append(text[2:])
                return word, rest

    def _drain(self) -> None:
        """Take the lines that are there."""
        while True:
            try:
                line = self._process.read_line(0.01)
            except TimeoutError:
                return
            if not line:
                raise HostUnreachable(f"The guard on {self._host} ended.", subject=self._host)
            self._alarms.append(line.decode("utf-8", "replace").strip().removeprefix("@ "))

    def _send(self, command: str) -> None:
        if self._ended.is_set():
            raise HostUnreachable(f"The guard on {self._host} has ended.", subject=self._host)
        self._process.write(command.encode() + b"\n")

    def _beat(self) -> None:
        while not self._ended.wait(self._document.silence / 6):
            with self._lock:
                if self._ended.is_set():
                    return
                try:
                    self._send("beat")
                except HostError:
                    return

    def _close(self) -> None:
        """Wait for its end: closing our side earlier could cut short what it still undoes."""
        with self._lock:
            if self._ended.is_set():
                return
            self._ended.set()
            self._process.close_stdin()
            try:
                self._process.wait(_END_SECONDS)
            except (TimeoutError, HostError):
                pass
            finally:
                self._process.close()
        if self._beats.is_alive():
            self._beats.join()


def clean(machine: Machine, document: str) -> str:
    """Undo what a vanished run left. document: Document.text. Returns what is left, empty when nothing is."""
    command = ["perl", "-e", source(), "--", "clean"]
    done = machine.run(command, stdin=document.encode() + b"\n", timeout=_END_SECONDS, check=False)
    lines = [line[2:] for line in done.text.splitlines() if line.startswith("@ ")]
    if "clean" in lines:
        return ""
    return next((line for line in lines if line.startswith("stuck")), done.errors[:300] or "no answer")


def _thawed(word: str, rest: str) -> CutReport:
    milliseconds, _, more = rest.partition(" ")
    total = int(milliseconds) if milliseconds.isdigit() else None
    if word == "unthawed":
        return CutReport(frozen=True, freeze_ms=total, pending=True, reason=more)
    early = more == "yes"
    return CutReport(frozen=not early, freeze_ms=total, early=early)


def _seconds(text: str) -> float:
    digits = text.partition(" ")[0]
    return int(digits) / 1000 if digits.isdigit() else 0.0
