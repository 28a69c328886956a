"""What a run writes into the cleanup journal about a guest, and reads back to undo it.

Every method's entry has kind KIND and the fields of `payload()`; a method may add fields of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.libvirt.guard import Watched

KIND = "libvirt-export"
FREEZE_KIND = "libvirt-freeze-check"


def payload(method: str, name: str, watched: Watched) -> dict[str, str]:
    return {
        "method": method,
        "uri": watched.uri,
        "uuid": watched.uuid,
        "name": name,
        "checkpoint": watched.checkpoint,
        "mark": watched.mark,
        "folder": watched.folder,
        "files": json.dumps(watched.files),
        "freeze": "yes" if watched.freeze else "no",
    }


def watched(entry: Mapping[str, str]) -> Watched:
    """Raises ProtocolError when the entry is not one of payload()."""
    try:
        files = json.loads(entry["files"])
        return Watched(
            uri=entry["uri"],
            uuid=entry["uuid"],
            checkpoint=entry["checkpoint"],
            mark=entry["mark"],
            folder=entry["folder"],
            reserve=0,
            files=tuple(str(file) for file in files),
            freeze=entry.get("freeze") == "yes",
        )
    except (KeyError, ValueError, TypeError) as error:
        raise ProtocolError(f"A journal entry about a libvirt guest cannot be read: {error!r}.") from error
