"""Looking at a host's key, and trusting it."""

from __future__ import annotations

from vmconsole.remote import known_hosts, ssh_trust
from vmconsole.remote.known_hosts import HostKeyInfo
from vmconsole.remote.ssh_config import resolve
from vmconsole.remote.ssh_link import host_key
from vmconsole.remote.ssh_settings import SshSettings

__all__ = ["HostKeyInfo", "scan_host_key", "trust", "trusted_fingerprint"]


def scan_host_key(settings: SshSettings) -> HostKeyInfo:
    """The key the host shows now, trusted or not; hosts on the way are verified.

    Raises HostUnreachable, ConfigError.
    """
    return host_key(settings, resolve(settings))


def trust(settings: SshSettings, key: HostKeyInfo, *, replace: bool = False) -> None:
    """Write a key to our own file of trusted keys (0600, atomically).

    Raises HostKeyChanged when the file holds another key of the host and replace is False; with
    replace, its other keys of that host go. Raises ValueError for a key that is none, OSError.
    """
    known_hosts.add(settings.known_hosts, key, replace=replace)


def trusted_fingerprint(settings: SshSettings, key_type: str) -> str:
    """Fingerprint of the key of that type that is trusted now; of any other type, when only that is.

    Empty when none is trusted. Raises ConfigError.
    """
    entries = [entry for entry in ssh_trust.known(resolve(settings)) if not entry.revoked]
    entries.sort(key=lambda entry: entry.type != key_type)
    return known_hosts.fingerprint(entries[0].blob) if entries else ""
