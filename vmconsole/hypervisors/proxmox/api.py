"""Proxmox's API, read-only: through `pvesh` on a node here, over HTTPS in https.py.

What goes wrong is the same on both ways, so failure() says what it means to the user.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from vmconsole.errors import (
    BackupFailed,
    CommandFailed,
    GuestBusy,
    GuestNotFound,
    HostError,
    HostUnreachable,
    NotPermitted,
    ToolMissing,
    VmconsoleError,
)
from vmconsole.hypervisors.proxmox.loose import parse_json
from vmconsole.remote.machine import Machine

TIMEOUT = 60.0

NOT_READY = (
    "ipcc_send_rec", "ipcc_get_", "unable to load access control list", "pve-cluster", "connection refused",
)  # fmt: skip
UNREACHABLE = (
    "hostname lookup", "no route to host", "connection timed out", "proxy handler failed",
    "proxy loop", "ssh: connect", "broken pipe", "host key verification failed", "595 ", "596 ",
)  # fmt: skip
PRIVILEGE = re.compile(r"Permission check failed(?: \(([^)]*)\))?", re.IGNORECASE)
LOCKED = re.compile(r"(?:VM|CT) is locked \(([a-z-]+)\)", re.IGNORECASE)
NO_QUORUM = re.compile(
    r"quorum|cluster not ready|'/etc/pve/[^']*' ?[-:] ?(?:permission denied|read-only file system)",
    re.IGNORECASE,
)
"""The cluster's file system refuses every write without quorum, root's too, as if root had no right to it."""
NO_STORAGE = re.compile(
    r"storage '([^']{1,100})' (?:does not exist|is not available|is disabled)", re.IGNORECASE
)


class Api(Protocol):
    """GET of Proxmox's API. Values are as Proxmox gives them, loosely typed: read them with loose.py."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def get(self, path: str, **params: str | int) -> Any:
        """Raises what failure() makes of a refusal, HostUnreachable, ProtocolError."""
        ...


class PveshApi:
    """`pvesh` on a node, as root. It asks other nodes by itself, over ssh between them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @property
    def name(self) -> str:
        return self._machine.name

    def get(self, path: str, **params: str | int) -> Any:
        return self._run("get", path, params)

    def create(self, path: str, **params: str | int) -> Any:
        """POST. What Proxmox runs as a task has ended when this returns."""
        return self._run("create", path, params)

    def _run(self, verb: str, path: str, params: dict[str, str | int]) -> Any:
        options = [text for key, value in params.items() for text in (f"--{key}", str(value))]
        argv = ["pvesh", verb, path, *options, "--output-format", "json"]
        try:
            done = self._machine.run(argv, timeout=TIMEOUT, check=False)
        except ToolMissing as error:
            raise ToolMissing(
                f"pvesh is not installed on {self.name}.",
                hint='Is this a Proxmox VE node? For a plain KVM host set kind = "libvirt".',
                subject=self.name,
            ) from error
        if done.status:
            said = done.errors or done.text
            raise failure(said, host=self.name, what=f"pvesh {verb} {path}", status=done.status)
        return parse_json(done.text)


def reason(text: str) -> str:
    """What a command of Proxmox printed as its error, on one line; perl's `at FILE line N.` is left out."""
    lines = [re.sub(r" at /\S+ line \d+.*$", "", line.strip()) for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.lower().startswith(("perl: warning", "warning:", "locale"))]
    joined = " ".join(dict.fromkeys(told or lines))
    return "".join(char if char.isprintable() else "?" for char in joined)[:600]


def failure(text: str, *, host: str, what: str, status: int = 1) -> VmconsoleError:
    """The error behind what Proxmox says, whichever way it was asked. status: exit or HTTP status."""
    told = reason(text)
    message = f"{what} on {host}: {told or f'ended with status {status}'}."
    lower = told.lower()
    if privilege := PRIVILEGE.search(told):
        return not_permitted(privilege[1] or "", host=host, what=what)
    if NO_QUORUM.search(told):
        return no_quorum(host)
    if "run as root" in lower or "must be root" in lower or "permission denied" in lower:
        return NotPermitted(message, hint="Log in as root: pvesh works for nobody else.", subject=host)
    if match := LOCKED.search(told):
        return GuestBusy(message, hint=lock_hint(match[1]), subject=host)
    if match := NO_STORAGE.search(told):
        return BackupFailed(
            f"Storage {match[1]} cannot be used on {host}: {told}.",
            hint="Look at it on the node: pvesm status",
            subject=host,
        )
    if any(sign in lower for sign in UNREACHABLE):
        return HostUnreachable(message, hint="Is that node up? On another one: pvecm status", subject=host)
    if any(sign in lower for sign in NOT_READY):
        return HostError(
            message, hint="On the node: systemctl restart pve-cluster pvedaemon (guests run on)", subject=host
        )
    if "configuration file" in lower and "does not exist" in lower:
        return GuestNotFound(message, hint="Look at `vmconsole inventory --refresh`.", subject=host)
    return CommandFailed(message, subject=host, exit_status=status, stderr=text)


def not_permitted(check: str, *, host: str, what: str) -> NotPermitted:
    """check: as Proxmox names it, `/vms/100, VM.Audit`; empty when it does not say."""
    path, _, privilege = check.partition(",")
    if not privilege.strip():
        return NotPermitted(
            f"{what} on {host} is not permitted.",
            hint="Give the user or API token the role PVEAuditor on / with propagation.",
            subject=host,
        )
    return NotPermitted(
        f"{what} on {host} needs the privilege {privilege.strip()} on {path.strip()}.",
        hint="Give it to the user or API token on the node, for all of an inventory: "
        "pveum acl modify / --roles PVEAuditor --tokens 'USER@REALM!TOKEN'",
        subject=host,
    )


def no_quorum(host: str) -> HostError:
    return HostError(
        f"The cluster of {host} has lost quorum: too few of its nodes see each other, so nothing can be locked.",
        hint="Bring its nodes back; on a node look at: pvecm status",
        subject=host,
    )


LOCKS = {
    "backup": "A backup holds it: Proxmox's own, or a run of vmconsole that died (vmconsole doctor --clean). "
    "If none works on it any more: qm unlock VMID",
    "clone": "It is being cloned; wait until that has ended.",
    "create": "It is being made or restored; wait until that has ended.",
    "fstrim": "Its volumes are being trimmed; wait until that has ended.",
    "migrate": "It is migrating; it is backed up from its new node when that has ended.",
    "mounted": "Its file system is mounted on the node: pct unmount VMID",
    "rollback": "It is going back to a snapshot; wait until that has ended.",
    "snapshot": "A snapshot is being taken; wait until that has ended.",
    "snapshot-delete": "A snapshot is being removed; wait until that has ended.",
    "suspending": "It is being suspended to disk; wait until that has ended.",
    "suspended": "It is suspended to disk and its disks are half way: resume it, or back it up by Proxmox.",
}


def lock_hint(lock: str) -> str:
    return LOCKS.get(lock, "If nothing works on it any more, on its node: qm unlock VMID")
