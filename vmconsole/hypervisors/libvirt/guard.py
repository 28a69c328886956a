"""Our end of guard.sh: the program on the host that holds a backup job and outlives us."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from vmconsole.errors import (
    BackupFailed,
    GuestBusy,
    GuestStopped,
    HostError,
    OutOfSpace,
    VmconsoleError,
)
from vmconsole.hypervisors.held.cutting import CutReport, Cutting, Phase
from vmconsole.hypervisors.held.line import GuardLine
from vmconsole.hypervisors.libvirt.virsh import failure
from vmconsole.interfaces import Together
from vmconsole.remote.machine import Machine, Process

_ALARMS = ("scratch", "ioerror", "stopped", "late-thaw")
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


@cache
def source() -> str:
    return files("vmconsole.hypervisors.libvirt").joinpath("guard.sh").read_text("utf-8")


class Guard:
    """A running guard. Thread-safe. Methods raise HostUnreachable when it is gone."""

    def __init__(self, process: Process, watched: Watched, host: str) -> None:
        self._line = GuardLine(process, host, _ALARMS, watched.silence, _END_SECONDS)
        self._watched = watched
        self._host = host
        self._cutting: Cutting | None = None

    @classmethod
    def start(cls, machine: Machine, watched: Watched) -> Guard:
        """Raises what Machine.start raises, HostUnreachable when it does not come up."""
        script = watched.undo_more + source()
        process = machine.start(["sh", "-c", script, "vmconsole-guard", *watched.arguments("hold")])
        guard = cls(process, watched, machine.name)
        try:
            guard._line.expect({"hello"}, 60.0)
        except BaseException:
            guard._line.close()
            raise
        guard._line.live()
        return guard

    def cut(self, backup: str, checkpoint: str, phase: Phase, together: Together | None = None) -> CutReport:
        """Freeze, begin the job, thaw. Raises GuestBusy, what virsh.failure() makes of libvirt's answer, and
        NotTogether.
        """
        with self._line.lock:
            self._line.send(f"cut{' together' if together else ''}\n{backup}\n{checkpoint}")
            self._cutting = Cutting(phase, together)
            return self._cutting.follow(self._line, _CUT_SECONDS, self._refused)

    def check(self) -> None:
        """Raise OutOfSpace or GuestStopped when the guard said so, HostUnreachable when it is gone."""
        with self._line.lock:
            self._line.drain()
            for alarm in self._line.alarms:
                self._raise_alarm(alarm)

    def explain(self) -> None:
        """As check(), and look at the job right now. Raises GuestStopped, BackupFailed as well."""
        with self._line.lock:
            self.check()
            self._line.send("status")
            job, _, state = self._line.expect({"job"}, _CUT_SECONDS)[1].partition(" ")
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
    def freeze_pending(self) -> bool:
        """Whether the guest may be frozen, or may yet be by an agent that hangs, though cut() has ended."""
        return self._cutting is not None and self._cutting.report.pending

    @property
    def thawed_late(self) -> bool:
        """A freeze that was pending is over for certain."""
        with self._line.lock:
            return "late-thaw" in self._line.alarms

    def release(self) -> bool:
        """End the job, keep the checkpoint. False when the job was not seen to end."""
        with self._line.lock:
            self._line.send("release")
            return self._line.expect({"released", "stuck"}, _END_SECONDS)[0] == "released"

    def keep(self) -> None:
        """From here on the checkpoint stays, whatever happens."""
        with self._line.lock:
            self._line.send("keep")
            self._line.expect({"kept"}, 60.0)

    def rollback(self) -> bool:
        """Undo everything and end. False when something was left."""
        try:
            with self._line.lock:
                self._line.send("rollback")
                return self._line.expect({"clean", "stuck"}, _END_SECONDS)[0] == "clean"
        finally:
            self._line.close()

    def done(self) -> None:
        """End; nothing is undone."""
        try:
            with self._line.lock:
                self._line.send("done")
        except HostError:
            pass
        finally:
            self._line.close()

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


def clean(machine: Machine, watched: Watched) -> str:
    """Undo what a vanished run left. Returns what could not be undone, empty when all was."""
    done = machine.script(source(), watched.arguments("clean"), timeout=_END_SECONDS, check=False)
    lines = [line[2:] for line in done.text.splitlines() if line.startswith("@ ")]
    if "clean" in lines:
        return ""
    return next((line for line in lines if line.startswith("stuck")), done.errors[:300] or "no answer")
