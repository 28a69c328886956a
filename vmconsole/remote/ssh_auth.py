"""Showing a host who we are: keys from files and from the agent, never a password."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm

from vmconsole.errors import HostUnreachable
from vmconsole.remote.command import printable
from vmconsole.remote.ssh_config import Hop

_AGENT_TIMEOUT = 5.0
"""Seconds for the agent to list its keys."""
_AUTH_TIMEOUT = 30.0
"""Seconds for one key: directory services and DNS make servers slow, and a token may want a touch."""


@dataclass
class _Notes:
    """What happened, for the hint."""

    tried: list[str] = field(default_factory=list)
    locked: list[Path] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)


def authenticate(
    transport: paramiko.Transport, hop: Hop, machine: str, explicit: tuple[Path, ...], *, use_agent: bool
) -> None:
    """Offer our keys until one is accepted. explicit: files the user named, which have to be there.

    Raises HostUnreachable with the keys that were tried.
    """
    with _agent_keys(use_agent=use_agent) as agent:
        _offer(transport, hop, machine, explicit, agent)


def _offer(
    transport: paramiko.Transport,
    hop: Hop,
    machine: str,
    explicit: tuple[Path, ...],
    agent: list[paramiko.AgentKey],
) -> None:
    notes = _Notes()
    transport.auth_timeout = _AUTH_TIMEOUT
    for label, key in _keys(hop, explicit, notes, agent):
        notes.tried.append(label)
        try:
            more = transport.auth_publickey(hop.user, key)
        except paramiko.BadAuthenticationType as error:
            ways = ", ".join(printable(way) for way in error.allowed_types)
            raise HostUnreachable(
                f"{hop.address} accepts no keys, only {ways}",
                hint="Allow PubkeyAuthentication in its sshd_config; vmconsole never asks for passwords.",
                subject=machine,
            ) from error
        except paramiko.AuthenticationException:
            if not transport.is_active():
                notes.unusable.append("It hung up before we could offer every key (MaxAuthTries)")
                raise _refused(hop, machine, notes) from None
            continue
        if not more:
            return
        raise HostUnreachable(
            f"{hop.address} accepted the key {label} but asks for more: {', '.join(map(printable, more))}",
            hint=f"Let {hop.user} log in with a key alone (AuthenticationMethods publickey).",
            subject=machine,
        )
    raise _refused(hop, machine, notes)


def _keys(
    hop: Hop, explicit: tuple[Path, ...], notes: _Notes, agent: list[paramiko.AgentKey]
) -> Iterator[tuple[str, paramiko.PKey]]:
    """Our keys in the order that gets in with the fewest tries: servers count them (MaxAuthTries)."""
    held = {key.asbytes(): key for key in agent}
    offered: set[bytes] = set()
    for path in dict.fromkeys(path.expanduser() for path in hop.identity_files):
        public = _public_blob(path)
        if public is not None and public in held:
            offered.add(public)
            yield f"{path} (agent)", held[public]
            continue
        key = _load(path, notes, named=path in {named.expanduser() for named in explicit})
        if key is not None and key.asbytes() not in offered:
            offered.add(key.asbytes())
            yield str(path), key
    if hop.identities_only:
        return
    for other in agent:
        if other.asbytes() not in offered:
            yield f"{printable(other.comment) or other.get_name()} (agent)", other


def _load(path: Path, notes: _Notes, *, named: bool) -> paramiko.PKey | None:
    try:
        return paramiko.PKey.from_path(path)
    except FileNotFoundError:
        if named:
            notes.unusable.append(f"{path} does not exist")
    except OSError as error:
        notes.unusable.append(f"{path} cannot be read ({error.strerror})")
    except (paramiko.PasswordRequiredException, TypeError):
        # cryptography says TypeError when a key needs a passphrase
        notes.locked.append(path)
    except (paramiko.SSHException, paramiko.pkey.UnknownKeyType, ValueError, UnsupportedAlgorithm):
        if _is_locked(path):
            notes.locked.append(path)
        else:
            notes.unusable.append(f"{path} is not a private key we can use")
    return None


def _is_locked(path: Path) -> bool:
    try:
        return b"ENCRYPTED" in path.read_bytes()[:4096]
    except OSError:
        return False


def _public_blob(path: Path) -> bytes | None:
    """The public half beside a private key file, or in the file itself when that is a public key."""
    for candidate in (path.with_name(path.name + ".pub"), path):
        try:
            return bytes(paramiko.pkey.PublicBlob.from_file(str(candidate)).key_blob)
        except (OSError, ValueError, UnicodeDecodeError, IndexError):
            continue
    return None


@contextmanager
def _agent_keys(*, use_agent: bool) -> Iterator[list[paramiko.AgentKey]]:
    """Keys of the agent that SSH_AUTH_SOCK names. One that is missing, hangs or breaks counts as none."""
    path = os.environ.get("SSH_AUTH_SOCK", "") if use_agent else ""
    if not path:
        yield []
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_AGENT_TIMEOUT)
        agent = paramiko.agent.AgentSSH()
        try:
            connection.connect(path)
            # paramiko.Agent would connect by itself, without a time limit
            agent._connect(connection)  # type: ignore[attr-defined] # private, so not in the stubs
        except (paramiko.SSHException, OSError, struct.error):
            yield []
            return
        connection.settimeout(_AUTH_TIMEOUT)
        yield list(agent.get_keys())


def _refused(hop: Hop, machine: str, notes: _Notes) -> HostUnreachable:
    hints = list(notes.unusable)
    if notes.tried:
        hints.append(f"Keys tried: {', '.join(notes.tried)}")
    else:
        hints.append("There was no key to try: make one with ssh-keygen -t ed25519")
    hints += [f"{path} is locked by a passphrase: ssh-add {path}" for path in notes.locked]
    port = f"-p {hop.port} " if hop.port != 22 else ""
    host = f"{hop.user}@{hop.host}"
    hints.append(f"Let a key in with: ssh-copy-id {port}{host}")
    reason = "refused every key" if notes.tried else "needs a key"
    return HostUnreachable(f"{hop.address} {reason}", hint=". ".join(hints) + ".", subject=machine)
