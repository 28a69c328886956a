"""A guest that is being made on a node: what the journal knows of it, and how it is taken back.

qmrestore and pct take a VMID that is free, and refuse one that is not. Until a restore is through, the
guest's configuration is empty but for a lock; then it is there at once, with our mark in its
description until everything is settled. So a guest is ours when it bears the mark, or when there is
nothing in it at all. Nothing else is ever touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from vmconsole.errors import HostError
from vmconsole.hypervisors.proxmox.api import failure
from vmconsole.hypervisors.proxmox.guestconf import GuestConf, parse
from vmconsole.model.guest import GuestKind
from vmconsole.remote.machine import Machine

JOURNAL_KIND = "proxmox-create"
SECONDS = 300.0
"""For `qm destroy` and the like: a storage may be slow to remove volumes."""

_BARE = frozenset({"lock", "digest", "meta"})
_NONE = ("does not exist", "no such vm", "no such ct", "unable to find configuration file")


@dataclass(frozen=True, slots=True)
class Making:
    """program: qm or pct. token: in the mark. description: what replaces the mark in the end."""

    node: str
    vmid: str
    program: str
    token: str
    name: str
    description: str = ""

    @property
    def mark(self) -> str:
        return f"vmconsole-restore {self.token}"

    @property
    def kind(self) -> GuestKind:
        return GuestKind.VM if self.program == "qm" else GuestKind.CONTAINER

    def payload(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def read(cls, payload: Mapping[str, str]) -> Making:
        """Raises HostError when the payload is not one of ours."""
        try:
            making = cls(**{name: str(payload[name]) for name in cls.__slots__})
        except KeyError as error:
            raise HostError(f"The journal entry of a restore lacks {error}.") from error
        if making.program not in ("qm", "pct") or not making.vmid.isdecimal() or len(making.token) < 12:
            raise HostError("The journal entry of a restore cannot be read.")
        return making


def settle(machine: Machine, making: Making) -> None:
    """Replace the mark by the guest's own description. Raises what failure() makes of a refusal."""
    change = ["--description", making.description] if making.description else ["--delete", "description"]
    run(machine, making, "set", making.vmid, *change)


def unmake(machine: Machine, making: Making, *, undo: bool) -> str:
    """Remove what is unfinished. Returns one sentence for the user. Idempotent.

    undo: also a guest that is whole, as long as it bears the mark. Raises HostError when it cannot be
    done now.
    """
    conf = configuration(machine, making)
    if conf is None:
        return f"Nothing is left of the restore of {making.name} on {making.node}."
    if making.mark in conf.current.description:
        if not undo:
            settle(machine, making)
            return f"The restore of {making.name} had finished; it stays, as {making.vmid} on {making.node}."
        _destroy(machine, making, conf)
        return f"Removed the restored {making.name} ({making.vmid} on {making.node})."
    if set(conf.values) <= _BARE and not conf.unclear:
        _destroy(machine, making, conf)
        return f"Removed the unfinished restore of {making.name} ({making.vmid} on {making.node})."
    return f"{making.vmid} on {making.node} is another guest by now and stays as it is."


def configuration(machine: Machine, making: Making) -> GuestConf | None:
    """The guest's configuration now; None when there is none."""
    argv = [making.program, "config", making.vmid]
    done = machine.run(argv, check=False)
    if done.status == 0:
        return parse(done.text, making.kind)
    if any(sign in done.errors.lower() for sign in _NONE):
        return None
    raise failure(done.errors, host=machine.name, what=" ".join(argv), status=done.status)


def run(machine: Machine, making: Making, command: str, *words: str) -> None:
    """One command of the guest's program. Raises what failure() makes of a refusal."""
    done = machine.run([making.program, command, *words], timeout=SECONDS, check=False)
    if done.status:
        what = f"{making.program} {command} {making.vmid}"
        raise failure(done.errors or done.text, host=machine.name, what=what, status=done.status)


def _destroy(machine: Machine, making: Making, conf: GuestConf) -> None:
    if conf.lock:
        raise HostError(
            f"{making.program} on {machine.name} still works on {making.vmid} (locked for {conf.lock}).",
            hint=f"When nothing works on it any more, on {making.node}: {making.program} unlock {making.vmid}; "
            "then: vmconsole doctor --clean",
            subject=machine.name,
        )
    # Volumes that are not in its configuration may be leftovers of an older guest with that number.
    run(machine, making, "destroy", making.vmid, "--destroy-unreferenced-disks", "0")
