"""What is needed to reach one host over SSH."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vmconsole.errors import ConfigError

SSH_PORT = 22

_ADDRESS = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?(?:\[(?P<bracketed>[^\]\s]+)\]|(?P<host>[^\[\]:@\s]+)|(?P<six>[0-9A-Fa-f:.%]+))(?::(?P<port>\d{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class SshSettings:
    """One host. Paths may begin with `~`; times in seconds.

    name: for messages and for `vmconsole host trust NAME`.
    address: `[user@]host[:port]`, where host may be an alias of the SSH configuration and an IPv6
    address with a port is written in brackets. user and port, when given, win over it.
    identity_files: private keys to try before those of the SSH configuration and of the agent.
    known_hosts: our own file of trusted host keys; those of the SSH configuration count as well.
    config_file: the SSH configuration, None to use none.
    keepalive: a connection that answers nothing for this long is dead.
    command_timeout: for opening a channel, and for the small commands we run on our own behalf.
    data_connections: how many connections `open_unix` spreads its streams over.
    """

    name: str
    address: str
    known_hosts: Path
    user: str = ""
    port: int = 0
    identity_files: tuple[Path, ...] = ()
    config_file: Path | None = Path("~/.ssh/config")
    use_agent: bool = True
    connect_timeout: float = 10.0
    command_timeout: float = 60.0
    keepalive: float = 30.0
    data_connections: int = 2

    def target(self) -> Address:
        """The address taken apart, with user and port applied. Raises ConfigError."""
        address = parse_address(self.address)
        return Address(address.host, self.port or address.port, self.user or address.user)


@dataclass(frozen=True, slots=True)
class Address:
    """port 0 and an empty user mean: not given."""

    host: str
    port: int = 0
    user: str = ""


def parse_address(text: str) -> Address:
    """`[user@]host[:port]`. Raises ConfigError."""
    match = _ADDRESS.fullmatch(text)
    port = int(match["port"] or 0) if match else 0
    host = (match["bracketed"] or match["host"] or match["six"]) if match else ""
    user = (match["user"] or "") if match else ""
    # A leading dash could be taken for an option by ssh.
    if not host or host.startswith("-") or user.startswith("-") or port > 65535 or not text.isprintable():
        raise ConfigError(
            f"{text!r} is not an SSH address",
            hint="Write it as user@host, user@host:port or user@[IPv6]:port.",
        )
    return Address(host, port, user)
