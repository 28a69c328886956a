"""Undoing what a dead run left on a host, from its journal entry."""

from __future__ import annotations

from vmconsole.errors import GuestNotFound, HostError, ProtocolError
from vmconsole.hypervisors.libvirt import guard, journal, overlay
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.hypervisors.served import qemunbd
from vmconsole.model.run import JournalEntry
from vmconsole.remote.machine import Machine


def clean_export(machine: Machine, entry: JournalEntry) -> str:
    """End the job if it is still ours, merge its overlays, remove its files and checkpoint. Idempotent.

    Raises HostError when something is left; ProtocolError when the entry is unreadable.
    """
    watched = journal.watched(entry.payload)
    name = entry.payload.get("name", watched.uuid)
    if overlay.FIELD in entry.payload:
        overlays = overlay.read_payload(entry.payload)
        note = overlay.merge(Virsh(machine, watched.uri), watched.uuid, name, overlays)
    else:
        note = ""
    left = guard.clean(machine, watched)
    if left:
        raise HostError(
            f"The backup of {name} on {machine.name} is not cleaned up yet: {left}",
            hint=f"Look at it: virsh domjobinfo {watched.uuid}; then: vmconsole doctor --clean",
            subject=machine.name,
        )
    qemunbd.sweep(machine)
    return note or f"Cleaned up after the backup of {name} on {machine.name}."


def clean_freeze(machine: Machine, entry: JournalEntry) -> str:
    """Thaw a guest whose agent did not answer when it was frozen. Idempotent.

    Thawing what is thawed does nothing, and an agent that answers has carried out everything that
    was queued before. Raises HostError as long as it does not answer.
    """
    try:
        uri, uuid, name = (entry.payload[key] for key in ("uri", "uuid", "name"))
    except KeyError as error:
        raise ProtocolError(f"A journal entry about a frozen guest lacks {error}.") from error
    virsh = Virsh(machine, uri)
    try:
        if virsh.run("domstate", uuid).strip() not in ("running", "paused"):
            return f"{name} on {machine.name} does not run any more; nothing is frozen."
        virsh.run("guest-agent-timeout", uuid, "--timeout", "5")
        virsh.run("domfsthaw", uuid)
    except GuestNotFound:
        return f"{name} is gone from {machine.name}; nothing is frozen."
    return f"{name} on {machine.name} is thawed."
