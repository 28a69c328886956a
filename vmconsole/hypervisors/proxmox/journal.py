"""What a run writes into the cleanup journal about a guest, and reads back to undo it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.proxmox.document import Document
from vmconsole.hypervisors.proxmox.facts import PveGuest

KIND = "proxmox-export"
FREEZE_KIND = "proxmox-freeze-check"


def payload(method: str, guest: PveGuest, document: Document) -> dict[str, str]:
    return {**who(guest), "method": method, "document": document.text}


def freeze(guest: PveGuest) -> dict[str, str]:
    """With the QEMU that it is about: in another one nothing is frozen."""
    return {**who(guest), "process": guest.process}


def who(guest: PveGuest) -> dict[str, str]:
    return {"node": guest.node, "vmid": str(guest.vmid), "name": guest.name}


def document(entry: Mapping[str, str]) -> str:
    """The document's text. Raises ProtocolError when the entry is not one of payload()."""
    try:
        text = entry["document"]
        found = json.loads(text)
        if not isinstance(found, dict) or not {"vmid", "folder", "run", "undo", "commit"} <= found.keys():
            raise ValueError("fields are missing")
    except (KeyError, ValueError) as error:
        raise ProtocolError(f"A journal entry about a Proxmox guest cannot be read: {error!r}.") from error
    return text
