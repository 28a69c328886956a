"""A backup job from its journal entry to its end, for every method that uses one (pull, push)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

from vmconsole.errors import HostError, VmconsoleError
from vmconsole.events import StepFinished, StepStarted, Warned, step
from vmconsole.hypervisors.held.cutting import CutReport
from vmconsole.hypervisors.libvirt import guard as guards
from vmconsole.hypervisors.libvirt import journal
from vmconsole.hypervisors.libvirt.checkpoints import drop_checkpoints
from vmconsole.hypervisors.libvirt.facts import PlanFacts
from vmconsole.hypervisors.libvirt.guard import Guard, Watched
from vmconsole.hypervisors.libvirt.settings import LibvirtSettings
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.interfaces import Context, Cut, ExportPlan
from vmconsole.model.guest import GuestState
from vmconsole.model.point import Consistency


def begin(
    virsh: Virsh,
    settings: LibvirtSettings,
    plan: ExportPlan,
    context: Context,
    *,
    checkpoint: str,
    mark: str,
    files: tuple[str, ...],
    undo_more: str = "",
    remember: Mapping[str, str] | None = None,
) -> Hold:
    """Write the journal entry, then start the guard. Raises HostError.

    checkpoint: name of the one the cut will make, empty for none. mark: text without XML specials
    that only this job's XML will hold. files: what the job leaves in the host's file system.
    undo_more: see Watched. remember: more fields for the journal entry.
    """
    facts: PlanFacts = plan.facts
    guest, options = facts.guest, plan.options
    watched = Watched(
        uri=virsh.uri,
        uuid=guest.uuid,
        checkpoint=checkpoint,
        mark=mark,
        folder=facts.scratch,
        reserve=settings.scratch_min_free,
        files=files,
        freeze=options.freeze and guest.agent and guest.state is GuestState.RUNNING,
        budget=options.freeze_budget,
        patience=options.agent_timeout,
        undo_more=undo_more,
    )
    with step(context.events, context.run, guest.name, "lock"):
        entry = context.journal.acquire(
            plan.guest.host,
            journal.KIND,
            {**journal.payload(plan.method, guest.name, watched), **(remember or {})},
        )
        try:
            held = Guard.start(virsh.machine, watched)
        except BaseException:
            context.journal.release(entry)
            raise
    return Hold(virsh, plan, context, watched, held, entry)


class Hold:
    """Ends in advance() or rollback(). Thread-safe."""

    def __init__(
        self,
        virsh: Virsh,
        plan: ExportPlan,
        context: Context,
        watched: Watched,
        held: Guard,
        entry: int,
    ) -> None:
        self._virsh = virsh
        self._facts: PlanFacts = plan.facts
        self._context = context
        self._host = plan.guest.host
        self._watched = watched
        self._guard = held
        self._entry = entry
        self._freeze_entry: int | None = None
        self._cut: Cut | None = None
        self._ended = False
        self._job_ended = True
        self._lock = threading.RLock()

    @property
    def cut_made(self) -> Cut:
        """After cut(). Its facts are empty: the caller knows more."""
        assert self._cut is not None
        return self._cut

    def cut(self, backup: str, checkpoint: str) -> Cut:
        """Freeze, begin the job, thaw. Raises as Guard.cut()."""
        self._context.cancel.check()
        together = self._context.together
        if together is not None:
            together.ready()
        try:
            report = self._guard.cut(backup, checkpoint, self._phase, together)
        finally:
            # Also when it failed, or the others of a common cut could not go on.
            if self._guard.freeze_pending:
                self._remember_freeze()
        self._cut = Cut(
            time=self._context.clock.now(),
            consistency=Consistency.APPLICATION if report.frozen else Consistency.CRASH,
            freeze_ms=report.freeze_ms,
            warnings=self._warnings(report),
        )
        return self._cut

    def check(self) -> None:
        """Raises as Export.check()."""
        self._guard.check()

    def explain(self) -> None:
        """Look at the job right now; raise what is wrong with it, if anything is."""
        self._guard.explain()

    def release(self) -> None:
        """End the job; the new checkpoint stays, until rollback()."""
        self._job_ended = self._guard.release()
        if not self._job_ended:
            self._warn(
                "The backup job did not end within two minutes.", "Try later: vmconsole doctor --clean"
            )
        if self._freeze_entry is not None and self._guard.thawed_late:
            self._context.journal.release(self._freeze_entry)
            self._freeze_entry = None

    def advance(self) -> None:
        """The new checkpoint takes over. Old ones that cannot be dropped are left for the next run.

        Raises HostError when the guard is gone: it may have removed the new checkpoint, so the old
        one is kept, and proves the next increment.
        """
        with self._lock:
            if self._ended:
                return
            guest = self._facts.guest
            try:
                self._guard.keep()
            except HostError:
                self._ended = True
                self._guard.done()
                raise
            # From here on undoing would lose the new checkpoint; an old one that stays does no harm.
            if self._job_ended:
                self._context.journal.release(self._entry)
            kept = (self._watched.checkpoint,) if self._watched.checkpoint else ()
            for problem in drop_checkpoints(self._virsh, guest.uuid, self._facts.repository, kept):
                self._warn(f"An old checkpoint could not be removed: {problem}", "The next run tries again.")
            self._ended = True
            self._guard.done()

    def rollback(self) -> None:
        """Undo everything; what cannot be undone stays in the journal. Never raises."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            left = self._undo()
            if left:
                self._warn(
                    f"Not everything could be undone on {self._host}: {left}", "vmconsole doctor --clean"
                )
            else:
                self._context.journal.release(self._entry)

    def _undo(self) -> str:
        """What is left, empty when nothing is."""
        try:
            if self._guard.rollback():
                return ""
        except VmconsoleError:
            pass
        try:
            return guards.clean(
                self._virsh.machine,
                replace(self._watched, freeze=self._watched.freeze and self._freeze_entry is None),
            )
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
            self._host,
            journal.FREEZE_KIND,
            {"uri": self._watched.uri, "uuid": self._watched.uuid, "name": self._facts.guest.name},
        )

    def _warnings(self, report: CutReport) -> tuple[str, ...]:
        found = []
        if report.early:
            found.append(
                f"The guest was thawed after its budget of {self._watched.budget:g} s, before the cut was "
                f"made (it was frozen for {report.freeze_ms} ms); this backup is crash-consistent."
            )
        elif self._watched.freeze and not report.frozen:
            found.append(f"The guest could not be frozen ({report.reason}); this backup is crash-consistent.")
        if report.pending:
            found.append(
                f"The guest agent does not answer; look whether the guest is frozen: "
                f"virsh domfsthaw {self._watched.uuid}"
            )
        return tuple(found)

    def _warn(self, message: str, hint: str) -> None:
        self._context.events(Warned(self._context.run, self._facts.guest.name, message, hint))
