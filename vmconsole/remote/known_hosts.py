"""Trusted host keys: OpenSSH's known_hosts format, sshd(8) "SSH_KNOWN_HOSTS FILE FORMAT"."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import os
import re
import struct
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vmconsole.errors import HostKeyChanged

_PORT = 22
_MAX_FILE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HostKeyInfo:
    """A host's public key. fingerprint: as `ssh-keygen -lf` shows it. line: for known_hosts, no newline."""

    type: str
    fingerprint: str
    line: str

    @classmethod
    def of(cls, host: str, kind: str, blob: bytes) -> HostKeyInfo:
        """host: as in known_hosts, `name` or `[name]:port`. blob: the key as on the wire."""
        return cls(kind, fingerprint(blob), f"{host} {kind} {base64.b64encode(blob).decode('ascii')}")

    @property
    def host(self) -> str:
        return self.entry.hosts[0]

    @property
    def entry(self) -> Entry:
        """The line, taken apart. Raises ValueError when it is not one, or not about this key."""
        entries = parse(self.line, "") if "\n" not in self.line else []
        if len(entries) != 1 or entries[0].revoked or fingerprint(entries[0].blob) != self.fingerprint:
            raise ValueError("not a line of known_hosts with this key")
        return entries[0]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: hosts may hold patterns, negations and hashes. where: `file:line`."""

    hosts: tuple[str, ...]
    type: str
    blob: bytes
    where: str
    revoked: bool = False

    def covers(self, host: str) -> bool:
        """Whether the line is about this host, written as in known_hosts."""
        name = host.lower()
        found = False
        for pattern in self.hosts:
            if pattern.startswith("|"):
                found = found or _hash_matches(pattern, name)
            elif pattern.startswith("!"):
                if _wildcard_matches(pattern[1:], name):
                    return False
            else:
                found = found or _wildcard_matches(pattern, name)
        return found


def fingerprint(blob: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def host_name(host: str, port: int) -> str:
    """How known_hosts writes a host and port."""
    return host.lower() if port == _PORT else f"[{host.lower()}]:{port}"


def parse(text: str, where: str) -> list[Entry]:
    """The entries of a file. Certificate authorities, and lines that make no sense, are passed over."""
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        marker = words.pop(0) if words[0].startswith("@") else ""
        if marker not in ("", "@revoked") or len(words) < 3:
            continue
        hosts, kind, encoded = words[:3]
        try:
            blob = base64.b64decode(encoded, validate=True)
        except ValueError:
            continue
        if blob_type(blob) != kind:
            continue
        entries.append(Entry(tuple(hosts.split(",")), kind, blob, f"{where}:{number}", marker == "@revoked"))
    return entries


def blob_type(blob: bytes) -> str:
    """The type a key says it has, RFC 4253 §6.6; empty when it is no key."""
    if len(blob) < 4:
        return ""
    (length,) = struct.unpack(">I", blob[:4])
    return blob[4 : 4 + length].decode("ascii", "replace") if 0 < length <= len(blob) - 4 else ""


def load(paths: Iterable[Path]) -> list[Entry]:
    """All entries of the files that exist and can be read."""
    entries: list[Entry] = []
    for path in paths:
        with suppress(OSError), path.expanduser().open("rb") as file:
            entries += parse(file.read(_MAX_FILE).decode("utf-8", "replace"), str(path))
    return entries


def known_keys(entries: Iterable[Entry], host: str, port: int, alias: str = "") -> list[Entry]:
    """The entries about a host. alias: HostKeyAlias of ssh_config(5), which replaces name and port."""
    entries = list(entries)
    if alias:
        return [entry for entry in entries if entry.covers(alias)]
    found = [entry for entry in entries if entry.covers(host_name(host, port))]
    if port != _PORT and not any(not entry.revoked for entry in found):
        # ssh(1) also accepts the key that is known for the bare name.
        found += [entry for entry in entries if entry.covers(host)]
    return found


def add(path: Path, key: HostKeyInfo, *, replace: bool) -> None:
    """Write a key to our own file (0600, atomically). A file that holds it already is left alone.

    Raises HostKeyChanged when the file holds another key for the host and replace is False; with
    replace, every other key of exactly this host goes. Raises OSError.
    """
    path = path.expanduser()
    host, blob = key.host, key.entry.blob
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        lines = (
            path.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if path.exists() else []
        )
        held = [_key_of(line, host) for line in lines]
        if not replace and any(other not in (None, blob) for other in held):
            raise HostKeyChanged(
                f"Another key of {host} is already trusted in {path}",
                hint="Find out why the key changed before you replace it.",
                subject=host,
            )
        kept = [line for line, other in zip(lines, held, strict=True) if other in (None, blob)]
        if blob not in held:
            kept.append(key.line)
        if kept != lines:
            _write(path, "\n".join(kept) + "\n")
            os.fsync(folder)
    finally:
        os.close(folder)


def _key_of(line: str, host: str) -> bytes | None:
    """The key of a line that is about this host alone."""
    entries = parse(line, "")
    return entries[0].blob if entries and entries[0].hosts == (host,) and not entries[0].revoked else None


def _write(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _wildcard_matches(pattern: str, name: str) -> bool:
    """Only * and ? are special; in fnmatch brackets would be as well, and `[host]:port` has those."""
    expression = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern.lower())
    return re.fullmatch(expression, name) is not None


def _hash_matches(pattern: str, name: str) -> bool:
    parts = pattern.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt, expected = base64.b64decode(parts[2], validate=True), base64.b64decode(parts[3], validate=True)
    except ValueError:
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode("utf-8", "replace"), "sha1"), expected)
