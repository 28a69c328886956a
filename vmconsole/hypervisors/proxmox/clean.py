"""Undoing what a dead run left on a node, from its journal entry."""

from __future__ import annotations

import re

from vmconsole.errors import HostError, ProtocolError
from vmconsole.hypervisors.proxmox import guard, journal
from vmconsole.hypervisors.proxmox.gather import process_of
from vmconsole.hypervisors.proxmox.nodes import Nodes
from vmconsole.hypervisors.proxmox.settings import ProxmoxSettings
from vmconsole.hypervisors.served import qemunbd
from vmconsole.model.run import JournalEntry

_AGENT_SECONDS = 60.0
_NO_GUEST = re.compile(r"does not exist|VM \S+ (?:is )?not running|not configured|No QEMU guest agent")
"""That the agent is not running is also said of one that is busy, such as with a freeze."""


def clean_export(nodes: Nodes, settings: ProxmoxSettings, entry: JournalEntry) -> str:
    """Undo an export (or finish it, when its archive was safe), or thaw a guest. Idempotent.

    Raises HostError when something is left; ProtocolError when the entry is unreadable.
    """
    del settings
    try:
        node, vmid, name = (entry.payload[key] for key in ("node", "vmid", "name"))
    except KeyError as error:
        raise ProtocolError(f"A journal entry about a Proxmox guest lacks {error}.") from error
    if entry.kind == journal.FREEZE_KIND:
        return _thaw(nodes, node, vmid, name, entry.payload.get("process", ""))
    if entry.kind != journal.KIND:
        raise ProtocolError(f"A journal entry of the kind {entry.kind} is not known here.")
    document = journal.document(entry.payload)
    machine = nodes.machine(node)
    left = guard.clean(machine, document)
    if left:
        raise HostError(
            f"The backup of {name} ({vmid}) on {nodes.host}/{node} is not cleaned up yet: {left}",
            hint=f"Is the node's storage answering? Look at it there: qm status {vmid} --verbose; "
            "then: vmconsole doctor --clean",
            subject=nodes.host,
        )
    qemunbd.sweep(machine)
    return f"Cleaned up after the backup of {name} ({vmid}) on {nodes.host}/{node}."


def _thaw(nodes: Nodes, node: str, vmid: str, name: str, process: str) -> str:
    """Thawing what is thawed does nothing, and an agent that answers has carried out everything that was
    queued before. Raises HostError as long as it does not answer and the QEMU is the same.
    """
    where = f"{nodes.host}/{node}"
    command = ["qm", "guest", "cmd", vmid, "fsfreeze-thaw"]
    machine = nodes.machine(node)
    done = machine.run(command, timeout=_AGENT_SECONDS, check=False)
    if done.status and not _NO_GUEST.search(done.errors):
        if process and process_of(machine, int(vmid)) != process:
            return f"{name} ({vmid}) on {where} was stopped or restarted since; nothing is frozen."
        raise HostError(
            f"Whether {name} ({vmid}) on {where} is frozen is not known; its agent does not answer.",
            hint=f"On the node: qm guest cmd {vmid} fsfreeze-status. Restart the agent inside the guest.",
            subject=nodes.host,
        )
    if done.status:
        return f"{name} ({vmid}) on {where} does not run any more, or has no agent; nothing is frozen."
    return f"{name} ({vmid}) on {where} is thawed."
