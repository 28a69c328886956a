"""Our end of guard.sh: the program on the host that holds a backup job and outlives us."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from vmconsole.errors import (
    BackupFailed,
    GuestBusy,
    GuestStopped,
    HostError,
    HostUnreachable,
    OutOfSpace,
    VmconsoleError,
)
from vmconsole.hypervisors.libvirt.virsh import failure
from vmconsole.remote.machine import Machine, Process

SILENCE = 120
"""Seconds without a word from us after which the guard undoes everything."""
_CUT_SECONDS = 120.0
"""Between two lines of a cut: backup-begin may wait 30 s for a lock of libvirt, and has 60 s."""
_END_SECONDS = 240.0
"""For ending a job: libvirt 9.0 can take a minute when the guest's agent (dis)connected meanwhile."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What the guard holds. mark: text that only our job's XML holds. files: removed at the end.

    checkpoint: the new one, empty when there is none. folder, reserve: where and how many bytes
    must stay free. budget: seconds the guest may stay frozen; patience: seconds for one answer of
    its agent. silence: after so many seconds without a word from us the guard undoes everything.
    undo_more: shell text that defines undo_more(), what the guard has to undo besides.
    """

    uri: str
    uuid: str
    checkpoint: str
    mark: str
    folder: str
    reserve: int
    files: tuple[str, ...]
    freeze: bool = False
    budget: float = 10.0
    patience: float = 5.0
    silence: int = SILENCE
    undo_more: str = ""

    def arguments(self, mode: str) -> list[str]:
        return [
            mode,
            self.uri,
            self.uuid,
            self.checkpoint,
            self.mark,
            self.folder,
            str(self.reserve),
            "yes" if self.freeze else "no",
            f"{self.budget:g}",
            str(max(1, round(self.patience))),
            str(self.silence),
            *self.files,
        ]


@dataclass(frozen=True, slots=True)
class CutReport:
    """frozen: the guest was frozen from before the cut until after it. freeze_ms: how long.

    early: the timer on the host thawed it before the cut was made. pending: a freeze may still be
    in force, or be carried out later by an agent that hangs now. reason: why it was not frozen.
    """

    frozen: bool = False
    freeze_ms: int | None = None
    early: bool = False
    pending: bool = False
    reason: str = ""


Phase = Callable[[str, float | None], None]


@cache
def source() -> str:
    return files("vmconsole.hypervisors.libvirt").joinpath("guard.sh").read_text("utf-8")


class Guard:
    """A running guard. Thread-safe. Methods raise HostUnreachable when it is gone."""

    def __init__(self, process: Process, watched: Watched, host: str) -> None:
        self._process = process
        self._watched = watched
        self._host = host
        self._lock = threading.RLock()
        self._alarms: list[str] = []
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="vmconsole-guard", daemon=True)

    @classmethod
    def start(cls, machine: Machine, watched: Watched) -> Guard:
        """Raises what Machine.start raises, HostUnreachable when it does not come up."""
        script = watched.undo_more + source()
        process = machine.start(["sh", "-c", script, "vmconsole-guard", *watched.arguments("hold")])
        guard = cls(process, watched, machine.name)
        try:
            guard._expect({"hello"}, 60.0)
        except BaseException:
            guard._close()
            raise
        guard._beats.start()
        return guard

    def cut(self, backup: str, checkpoint: str, phase: Phase) -> CutReport:
        """Freeze, begin the job, thaw. phase hears `freeze`, `cut` and `thaw` with None when each
        begins, and with its seconds when it has succeeded.

        Raises GuestBusy, and what virsh.failure() makes of libvirt's answer.
        """
        with self._lock:
            self._send(f"cut\n{backup}\n{checkpoint}")
            report = CutReport()
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
                    report = CutReport(pending=pending == "yes", reason=reason.removeprefix("error:").strip())
                elif word == "cutting":
                    phase("cut", None)
                elif word == "cut":
                    phase("cut", _seconds(rest))
                    if report.frozen:
                        phase("thaw", None)
                elif word in ("thawed", "unthawed"):
                    report = _thawed(word, rest)
                    if not report.pending:
                        phase("thaw", max(0.0, _seconds(rest) - froze))
                elif word == "ready":
                    return report
                elif word == "failed":
                    raise self._refused(rest)

    def check(self) -> None:
        """Raise OutOfSpace or GuestStopped when the guard said so, HostUnreachable when it is gone."""
        with self._lock:
            self._drain()
            for alarm in self._alarms:
                self._raise_alarm(alarm)

    def explain(self) -> None:
        """As check(), and look at the job right now. Raises GuestStopped, BackupFailed as well."""
        with self._lock:
            self.check()
            self._send("status")
            job, _, state = self._expect({"job"}, _CUT_SECONDS).partition(" ")
            self.check()
            if job == "unknown":
                raise HostError(
                    f"libvirt on {self._host} does not answer.",
                    hint="Run on the host: systemctl restart libvirtd (guests run on)",
                    subject=self._host,
                )
            if job == "ours" and state.startswith(("running", "paused", "idle")):
                return
            if not state.startswith(("running", "paused", "idle")):
                raise self._stopped()
            raise BackupFailed(
                f"The backup job of the guest on {self._host} is gone; somebody ended it.",
                hint="Look for other programs or people that abort jobs (virsh domjobabort).",
            )

    @property
    def thawed_late(self) -> bool:
        """A freeze that was pending is over for certain."""
        with self._lock:
            return "late-thaw" in self._alarms

    def release(self) -> bool:
        """End the job, keep the checkpoint. False when the job was not seen to end."""
        with self._lock:
            self._send("release")
            return self._either("released")

    def keep(self) -> None:
        """From here on the checkpoint stays, whatever happens."""
        with self._lock:
            self._send("keep")
            self._expect({"kept"}, 60.0)

    def rollback(self) -> bool:
        """Undo everything and end. False when something was left."""
        try:
            with self._lock:
                self._send("rollback")
                return self._either("clean")
        finally:
            self._close()

    def done(self) -> None:
        """End; nothing is undone."""
        try:
            with self._lock:
                self._send("done")
        except HostError:
            pass
        finally:
            self._close()

    def _refused(self, rest: str) -> VmconsoleError:
        status, _, text = rest.partition(" ")
        if text.startswith("busy"):
            what = {"ours": "a backup job of vmconsole", "foreign": "a backup job of another program"}
            return GuestBusy(
                f"The guest on {self._host} is held by {what.get(text[5:], 'another job of libvirt')}.",
                hint=f"Look at it: virsh domjobinfo {self._watched.uuid}; ours: vmconsole doctor --clean",
            )
        if "not running" in text or "inactive domain" in text:
            return self._stopped()
        code = int(status) if status.isdigit() else 1
        return failure(text, host=self._host, what="virsh backup-begin", status=code)

    def _raise_alarm(self, alarm: str) -> None:
        word, _, rest = alarm.partition(" ")
        folder = self._watched.folder
        if word == "scratch":
            raise OutOfSpace(
                f"Only {rest} bytes were left in {folder} on {self._host}; the job was ended so that the "
                "guest can go on writing.",
                hint="Free space there, or set another `scratch` folder for this host.",
            )
        if word == "ioerror":
            raise OutOfSpace(
                f"The guest on {self._host} was paused by an I/O error while it was backed up; the job was "
                "ended and the guest resumed.",
                hint=f"Look at the free space of {folder} and at: virsh domblkerror {self._watched.uuid}",
            )
        if word == "stopped":
            raise self._stopped()

    def _stopped(self) -> GuestStopped:
        return GuestStopped(
            f"The guest on {self._host} was switched off while it was read.",
            hint="Back it up again; earlier restore points are untouched.",
        )

    def _either(self, good: str) -> bool:
        while True:
            word, _ = self._answer(_END_SECONDS)
            if word in (good, "stuck"):
                return word == good

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
                    hint="If something is left on the host: vmconsole doctor --clean",
                    subject=self._host,
                )
            text = line.decode("utf-8", "replace").strip()
            if text.startswith("@ "):
                word, _, rest = text[2:].partition(" ")
                if word in ("scratch", "ioerror", "stopped", "late-thaw"):
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
            text = line.decode("utf-8", "replace").strip().removeprefix("@ ")
            self._alarms.append(text)

    def _send(self, command: str) -> None:
        if self._ended.is_set():
            raise HostUnreachable(f"The guard on {self._host} has ended.", subject=self._host)
        self._process.write(command.encode() + b"\n")

    def _beat(self) -> None:
        while not self._ended.wait(self._watched.silence / 6):
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


def clean(machine: Machine, watched: Watched) -> str:
    """Undo what a vanished run left. Returns what could not be undone, empty when all was."""
    done = machine.script(source(), watched.arguments("clean"), timeout=_END_SECONDS, check=False)
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
