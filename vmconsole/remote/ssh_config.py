"""What the user's SSH configuration says about a host: ssh_config(5).

`ssh -G` is asked, so that Include, Match, tokens and defaults mean what they mean to ssh itself.
Without the ssh program a simpler parser reads the file (no Include).
"""

from __future__ import annotations

import getpass
import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmconsole.errors import CommandFailed, ConfigError, ToolMissing
from vmconsole.remote.command import printable
from vmconsole.remote.known_hosts import host_name
from vmconsole.remote.local import LocalMachine
from vmconsole.remote.ssh_settings import SSH_PORT, Address, SshSettings, parse_address

_MAX_JUMPS = 8
_TIMEOUT = 10.0
_DEFAULT_IDENTITIES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_DEFAULT_KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True, slots=True)
class Hop:
    """One SSH server on the way. jump: the hop it is reached through.

    asked: the name as the user wrote it. known_hosts: files of trusted keys, ours first.
    """

    asked: str
    host: str
    port: int
    user: str
    identity_files: tuple[Path, ...]
    identities_only: bool
    known_hosts: tuple[Path, ...]
    host_key_alias: str = ""
    proxy_command: str = ""
    jump: Hop | None = None
    is_jump: bool = False

    @property
    def known_as(self) -> str:
        """The name its key is written down under."""
        return self.host_key_alias.lower() or host_name(self.host, self.port)

    @property
    def address(self) -> str:
        """For messages: `user@host:port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}" + ("" if self.port == SSH_PORT else f":{self.port}")


def resolve(settings: SshSettings) -> Hop:
    """The way to a host. Raises ConfigError."""
    return _resolve(settings, settings.target(), None, 0)


def _resolve(settings: SshSettings, address: Address, jumps: list[str] | None, depth: int) -> Hop:
    """jumps: the hops before this one, None when the configuration decides."""
    if depth > _MAX_JUMPS:
        raise ConfigError(
            f"The SSH configuration leads to {settings.name} through more than {_MAX_JUMPS} hosts",
            hint=f"Look for a circle in ProxyJump: ssh -G {address.host}",
        )
    options = _lookup(settings.config_file, address)

    def one(name: str) -> str:
        value = options.get(name, [""])[0]
        return "" if value.lower() == "none" else value

    host = one("hostname") or address.host
    port = address.port or _port(one("port"), address.host)
    user = address.user or one("user") or getpass.getuser()
    if jumps is None:
        jumps = [jump.strip() for jump in one("proxyjump").split(",") if jump.strip()]
        proxy_command = "" if jumps else one("proxycommand")
    else:
        proxy_command = ""
    jump = None
    if jumps:
        last = parse_address(jumps[-1].removeprefix("ssh://"))
        jump = _resolve(settings, last, jumps[:-1] or None, depth + 1)
    known_hosts = [
        path for name in ("userknownhostsfile", "globalknownhostsfile") for path in one(name).split()
    ]
    return Hop(
        asked=address.host,
        host=host,
        port=port,
        user=user,
        identity_files=(
            *settings.identity_files,
            *(Path(path) for path in options.get("identityfile", _DEFAULT_IDENTITIES)),
        ),
        identities_only=one("identitiesonly").lower() == "yes",
        known_hosts=(settings.known_hosts, *map(Path, known_hosts or _DEFAULT_KNOWN_HOSTS)),
        host_key_alias=one("hostkeyalias"),
        proxy_command=_expand(proxy_command, {"h": host, "n": address.host, "p": str(port), "r": user}),
        jump=jump,
        is_jump=depth > 0,
    )


def _lookup(config_file: Path | None, address: Address) -> dict[str, list[str]]:
    """The options for a host, names in lower case, each with all its values."""
    if config_file is None:
        return {}
    path = config_file.expanduser()
    argv = ["ssh", "-G"]
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    if path != home / ".ssh" / "config":
        argv += ["-F", str(path) if path.exists() else "none"]
    argv += ["-p", str(address.port)] if address.port else []
    argv += ["-l", address.user] if address.user else []
    try:
        answer = LocalMachine().run([*argv, "--", address.host], timeout=_TIMEOUT)
    except ToolMissing:
        return _parse_file(path, address)
    except CommandFailed as error:
        raise ConfigError(
            f"The SSH configuration cannot be read: {error.stderr or error.message}",
            hint=f"Mend {path}; `ssh -G {address.host}` shows the same error.",
        ) from error
    options: dict[str, list[str]] = {}
    for line in answer.text.splitlines():
        name, _, value = line.partition(" ")
        options.setdefault(name.lower(), []).append(value)
    return options


def _parse_file(path: Path, address: Address) -> dict[str, list[str]]:
    import paramiko

    try:
        found = paramiko.SSHConfig.from_path(str(path)).lookup(address.host)
    except FileNotFoundError:
        return {}
    except (OSError, paramiko.SSHException, ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            f"The SSH configuration {path} cannot be read: {printable(str(error))}",
            hint="Install the ssh program, which understands all of it, or simplify the file.",
        ) from error
    # Options that may be given more than once are lists here, the others strings.
    values: Mapping[str, Any] = found
    return {
        name: value if isinstance(value, list) else [str(value)] for name, value in values.items() if value
    }


def _port(text: str, host: str) -> int:
    if not text:
        return SSH_PORT
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise ConfigError(f"The SSH configuration names the port {text!r} for {host}")
    return int(text)


def _expand(command: str, tokens: dict[str, str]) -> str:
    """ssh_config(5) TOKENS that ProxyCommand accepts and that we know."""
    return re.sub("%(.)", lambda match: {**tokens, "%": "%"}.get(match[1], match[0]), command)
