"""What guard.pl is handed: the document about one export, and steps.

A step is an object with one of
- `qmp`, `arguments`: a command of QEMU's monitor; `limit`: seconds for its answer
- `run`: a program and its arguments; `limit`: seconds
- `serve`: start QEMU's NBD server on this path; `unserve`: remove exports whose id begins so, and stop
  the server if it was started by a step and nobody else uses it
- `cancel`: end a job of QEMU, and wait until it is gone
- `point`: make the device `key` (`device` in QEMU's words) work on another `node` than `from`
- `pause`, `resume`: stop the guest if it runs, and let it go on if that step stopped it
and any of
- `ignore`: a pattern of Perl; an error that matches it is none
- `expect`: a pattern that the answer, a string, must match
- `keep`: hand the answer over under this name
- `mark`: remember that this was begun, and forget it when it was refused; one word or several
- `if`: only if so remembered, and forget it when it was done
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vmconsole.hypervisors.proxmox.graph import Step

SILENCE = 120
"""Seconds without a word from us after which the guard undoes everything."""
EVENTS = "/var/run/qmeventd.sock"
"""Where qmeventd is told not to end the QEMU of a guest that powers off."""
RUN_FOLDER = "/run/qemu-server"


@dataclass(frozen=True, slots=True)
class Document:
    """What the guard holds.

    run: ours. process: `PID:START` of QEMU, empty when off. qmp: its monitor's socket. folder: where
    the guard keeps its notes, and the NBD socket. lock: take the lock in the guest's configuration.
    freeze: with the guest's agent; budget: seconds it may stay frozen, patience: seconds for an answer
    of the agent. watch: `folder` or `storage` and `reserve`, the bytes to keep free there; None for
    none. undo, commit: the steps back, and the steps forward once the archive is safe; both may be
    carried out more than once, also in part. boot: id of the node's boot.
    """

    vmid: int
    run: str
    folder: str
    boot: str = ""
    process: str = ""
    qmp: str = ""
    events: str = ""
    lock: bool = True
    freeze: bool = False
    budget: float = 10.0
    patience: float = 5.0
    silence: int = SILENCE
    watch: Mapping[str, Any] | None = None
    undo: tuple[Step, ...] = ()
    commit: tuple[Step, ...] = ()

    @property
    def socket(self) -> str:
        return f"{self.folder}/nbd"

    @property
    def text(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))


def folder_of(vmid: int) -> str:
    return f"{RUN_FOLDER}/{vmid}.vmc"
