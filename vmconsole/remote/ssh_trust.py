"""Deciding whether a host's key is the one we trust."""

from __future__ import annotations

from vmconsole.errors import HostKeyChanged
from vmconsole.remote import known_hosts
from vmconsole.remote.known_hosts import Entry, HostKeyInfo
from vmconsole.remote.ssh_config import Hop


def known(hop: Hop) -> list[Entry]:
    """What the files of trusted keys say about a host."""
    return known_hosts.known_keys(known_hosts.load(hop.known_hosts), hop.host, hop.port, hop.host_key_alias)


def preferred_types(entries: list[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.type for entry in entries if not entry.revoked))


def check(hop: Hop, key: HostKeyInfo, entries: list[Entry], machine: str) -> None:
    """Raises HostKeyChanged unless exactly this key is trusted."""
    blob = key.entry.blob
    what = (
        f"The host key of {hop.address}, on the way to {machine},"
        if hop.is_jump
        else f"The host key of {machine}"
    )
    shows = f"{key.type} {key.fingerprint}"
    if any(entry.revoked and entry.blob == blob for entry in entries):
        raise HostKeyChanged(
            f"{what} is revoked: {shows}",
            hint="Do not connect: somebody may be using a stolen key. Ask whoever revoked it.",
            subject=machine,
        )
    trusted = [entry for entry in entries if not entry.revoked]
    if any(entry.blob == blob for entry in trusted):
        return
    if not trusted:
        raise HostKeyChanged(
            f"{what} is not trusted yet: {shows}", hint=_how_to_trust(hop, key, machine), subject=machine
        )
    before = ", ".join(
        f"{entry.type} {known_hosts.fingerprint(entry.blob)} ({entry.where})" for entry in trusted
    )
    remedy = f"correct {trusted[0].where}" if hop.is_jump else f"vmconsole host trust --replace {machine}"
    raise HostKeyChanged(
        f"{what} has CHANGED: it shows {shows}, trusted is {before}",
        hint="Somebody may be listening in. Do not go on before the administrator of the host "
        f"has confirmed the new fingerprint; then: {remedy}",
        subject=machine,
    )


def _how_to_trust(hop: Hop, key: HostKeyInfo, machine: str) -> str:
    if hop.is_jump:
        return f"Log in once by hand and compare the fingerprint: ssh -p {hop.port} {hop.user}@{hop.host}"
    file = f"/etc/ssh/ssh_host_{_file_type(key.type)}_key.pub"
    return f"Compare it on the host with: ssh-keygen -lf {file}, then: vmconsole host trust {machine}"


def _file_type(kind: str) -> str:
    """`ed25519` of `ssh-ed25519`: the word in sshd's file names."""
    return "ecdsa" if kind.startswith("ecdsa") else kind.removeprefix("ssh-")
