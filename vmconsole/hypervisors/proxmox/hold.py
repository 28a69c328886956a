"""A guest's export from its journal entry to its end, for every method that has one on the node."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from vmconsole.errors import BackupFailed, HostError, OutOfSpace, VmconsoleError
from vmconsole.events import StepFinished, StepStarted, Warned, step
from vmconsole.hypervisors.held.cutting import CutReport
from vmconsole.hypervisors.proxmox import guard as guards
from vmconsole.hypervisors.proxmox import journal
from vmconsole.hypervisors.proxmox.document import Document
from vmconsole.hypervisors.proxmox.facts import PlanFacts, PveGuest
from vmconsole.hypervisors.proxmox.graph import Step
from vmconsole.hypervisors.proxmox.guard import Guard
from vmconsole.interfaces import Context, Cut, ExportPlan
from vmconsole.model.point import Consistency
from vmconsole.remote.machine import Machine

BOOT_ID = "/proc/sys/kernel/random/boot_id"
CONF = "config/qemu-server.conf"
FIREWALL = "config/firewall.fw"


def begin(machine: Machine, plan: ExportPlan, context: Context, document: Document) -> Hold:
    """Write the journal entry, then start the guard, which takes the guest's lock.

    Raises GuestBusy, HostError.
    """
    guest = plan.facts.guest
    with step(context.events, context.run, guest.name, "lock"):
        entry = context.journal.acquire(
            plan.guest.host, journal.KIND, journal.payload(plan.method, guest, document)
        )
        try:
            held = Guard.start(machine, document)
        except BaseException:
            context.journal.release(entry)
            raise
    return Hold(machine, plan, context, document, held, entry)


def boot_id(machine: Machine, guest: PveGuest) -> str:
    return guest.process.partition(":")[0] or machine.run(["cat", BOOT_ID]).text.strip()


def members(guest: PveGuest) -> dict[str, bytes]:
    """What is stored beside the disks: the configuration files, byte for byte."""
    found = {CONF: guest.conf.encode("utf-8", "surrogateescape")}
    if guest.firewall:
        found[FIREWALL] = guest.firewall.encode("utf-8", "surrogateescape")
    return found


class Hold:
    """Ends in advance() or rollback(). Thread-safe."""

    def __init__(
        self,
        machine: Machine,
        plan: ExportPlan,
        context: Context,
        document: Document,
        held: Guard,
        entry: int,
    ) -> None:
        self._machine = machine
        self._facts: PlanFacts = plan.facts
        self._context = context
        self._host = plan.guest.host
        self._document = document
        self._guard = held
        self._entry = entry
        self._freeze_entry: int | None = None
        self._ended = False
        self._lock = threading.RLock()

    @property
    def socket(self) -> str:
        return self._document.socket

    def do(self, steps: Sequence[Step]) -> dict[str, Any]:
        """As Guard.do()."""
        self._context.cancel.check()
        return self._guard.do(steps)

    def cut(self, steps: Sequence[Step]) -> tuple[Cut, dict[str, Any]]:
        """Freeze, carry the steps out, thaw. The cut's facts are empty: the caller knows more."""
        self._context.cancel.check()
        together = self._context.together
        if together is not None:
            together.ready()
        try:
            report, results = self._guard.cut(steps, self._phase, together)
        finally:
            # Also when it failed, or the others of a common cut could not go on.
            if self._guard.freeze_pending:
                self._remember_freeze()
        cut = Cut(
            time=self._context.clock.now(),
            consistency=Consistency.APPLICATION if report.frozen else Consistency.CRASH,
            freeze_ms=report.freeze_ms,
            warnings=self._warnings(report),
        )
        return cut, results

    def check(self) -> None:
        """Raises as Export.check()."""
        self._guard.check()

    def explain(self) -> None:
        """Look at the guest right now; raise what is wrong with its export, if anything is."""
        state = self._guard.state()
        if state.word == "unknown":
            raise HostError(
                f"QEMU of {self._facts.guest.name} on {self._host} does not answer.",
                hint="Is its storage answering, or does another tool hold its monitor? "
                f"qm status {self._document.vmid} --verbose",
                subject=self._host,
            )
        if not state.exports:
            raise BackupFailed(
                f"The export of {self._facts.guest.name} is gone from QEMU; somebody ended it.",
                hint="Look for other programs or people that use QEMU's monitor.",
                subject=self._facts.guest.name,
            )

    def explain_read(self) -> None:
        """As explain(), after QEMU itself refused a read: the snapshot was given up for the guest's sake."""
        self.explain()
        if self._facts.reserve:
            return
        place = self._facts.fleecing
        raise OutOfSpace(
            f"QEMU gave the backup of {self._facts.guest.name} up so that the guest can go on writing: the "
            f"fleecing space{f' {place.name}' if place else ''} ran full, or was too slow (45 s for one write).",
            hint="Free space there, or set another `fleecing` for this host.",
            subject=self._facts.guest.name,
        )

    def settle_freeze(self) -> None:
        """Forget a freeze that was pending and is over."""
        if self._freeze_entry is not None and self._guard.thawed_late:
            self._context.journal.release(self._freeze_entry)
            self._freeze_entry = None

    def advance(self) -> None:
        """The archive is safe: carry out the document's commit. What is left is the journal's.

        Raises HostError when the guard is gone: it may have undone everything, so that the next backup
        builds upon the point before.
        """
        with self._lock:
            if self._ended:
                return
            self._ended = True
            left = self._guard.commit(frozen=self._freeze_entry is not None)
            if left:
                self._warn_left(left)
            else:
                self._context.journal.release(self._entry)

    def rollback(self) -> None:
        """Undo everything; what cannot be undone stays in the journal. Never raises."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            left = self._undo()
            if left:
                self._warn_left(left)
            else:
                self._context.journal.release(self._entry)

    def _undo(self) -> str:
        """What is left, empty when nothing is."""
        try:
            return self._guard.rollback(frozen=self._freeze_entry is not None)
        except VmconsoleError:
            pass
        try:
            return guards.clean(self._machine, self._document.text)
        except VmconsoleError as error:
            return error.message

    def _phase(self, name: str, seconds: float | None) -> None:
        guest, run = self._facts.guest.name, self._context.run
        if seconds is None:
            self._context.events(StepStarted(run, guest, name))
        else:
            self._context.events(StepFinished(run, guest, name, seconds))

    def _remember_freeze(self) -> None:
        """An agent that hangs now may carry out the freeze when it wakes up, with nobody to thaw it."""
        self._freeze_entry = self._context.journal.acquire(
            self._host, journal.FREEZE_KIND, journal.freeze(self._facts.guest)
        )

    def _warnings(self, report: CutReport) -> tuple[str, ...]:
        found = []
        vmid = self._document.vmid
        if report.early:
            found.append(
                f"The guest was thawed after its budget of {self._document.budget:g} s, before the cut was "
                f"made (it was frozen for {report.freeze_ms} ms); this backup is crash-consistent."
            )
        elif self._document.freeze and not report.frozen:
            found.append(f"The guest could not be frozen ({report.reason}); this backup is crash-consistent.")
        if report.pending:
            found.append(
                "The guest agent does not answer; look whether the guest is frozen: "
                f"qm guest cmd {vmid} fsfreeze-status"
            )
        if self._guard.events_missing:
            found.append(
                f"qmeventd on {self._host} does not answer; a guest that powers off now ends its backup."
            )
        return tuple(found)

    def _warn_left(self, left: str) -> None:
        message = f"Not everything could be cleaned up on {self._host}: {left}"
        self._context.events(
            Warned(self._context.run, self._facts.guest.name, message, "vmconsole doctor --clean")
        )
