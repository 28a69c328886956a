"""SSH host keys, as a user compares them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostKey:
    """A host's key as scanned just now. fingerprint: `SHA256:…`, as ssh-keygen -l prints it."""

    host: str
    address: str
    type: str
    fingerprint: str
    line: str
    """The known_hosts line."""
    trusted: str = ""
    """Fingerprint of the key of this type that is trusted now; empty when none is."""
