"""One authenticated SSH connection to a host, through other hosts where needed."""

from __future__ import annotations

import logging
import socket
import subprocess
from contextlib import suppress

import paramiko

from vmconsole.errors import HostUnreachable
from vmconsole.remote import ssh_trust
from vmconsole.remote.command import printable
from vmconsole.remote.known_hosts import HostKeyInfo
from vmconsole.remote.ssh_auth import authenticate
from vmconsole.remote.ssh_config import Hop
from vmconsole.remote.ssh_settings import SshSettings
from vmconsole.remote.ssh_socket import RawSocket, WatchedSocket, tune
from vmconsole.remote.ssh_transport import ChannelRefused, LinkChannel, LinkTransport, at_most

_IDLE = "exec cat >/dev/null"
"""Runs in the idle terminal session: ends by itself when the connection does."""


class LinkLost(HostUnreachable, ConnectionError):
    """The connection went away while it was used. Also an OSError, as from any socket."""

    @property
    def code(self) -> str:
        return HostUnreachable.__name__


class Link:
    """A connection. Thread-safe. users: how many channels hold it (kept by the pool)."""

    def __init__(
        self, transport: LinkTransport, machine: str, below: list[Link | subprocess.Popen[bytes]]
    ) -> None:
        self.transport = transport
        self.machine = machine
        self.users = 0
        self._below = below
        self._idle: LinkChannel | None = None

    @property
    def alive(self) -> bool:
        return self.transport.is_active()

    def open(self, kind: str, fields: list[str | int], timeout: float) -> LinkChannel:
        """Open a channel. Raises ChannelRefused, LinkLost; HostUnreachable when it takes too long."""
        try:
            return self.transport.open(kind, fields, timeout)
        except TimeoutError as error:
            raise HostUnreachable(
                f"{self.machine} is connected but did not answer within {timeout:g} s", subject=self.machine
            ) from error
        except (EOFError, OSError, paramiko.SSHException) as error:
            raise self.lost() from error

    def lost(self, what: str = "") -> LinkLost:
        """The error for a connection that went away. what: what was under way."""
        return LinkLost(
            f"The connection to {self.machine} was lost{self._why()}" + (f" while {what}" if what else ""),
            hint=f"Try again; if it stays so, look at the network and at sshd's log on {self.machine}.",
            subject=self.machine,
        )

    def stay_prompt(self, timeout: float) -> None:
        """Open an idle terminal session: sshd sends small packets without delay only with one.

        It has to be the first session: sshd decides once per connection. Without one (PermitTTY
        no) everything works, small answers just take longer. Raises HostUnreachable.
        """
        with suppress(ChannelRefused, paramiko.SSHException, EOFError):
            self._idle = self.open("session", [], timeout)
            with at_most(timeout, self._idle):
                self._idle.get_pty("dumb")
                self._idle.exec_command(_IDLE)

    def close(self) -> None:
        self.transport.end()
        for lower in self._below:
            if isinstance(lower, Link):
                lower.close()
            else:
                _end(lower)

    def _why(self) -> str:
        watched = self.transport.sock
        return f" (no answer for {watched.patience:g} s)" if watched.silent else ""


def connect(settings: SshSettings, hop: Hop) -> Link:
    """Connect and log in. Raises HostUnreachable, HostKeyChanged."""
    link, _ = _shake_hands(settings, hop, check=True)
    try:
        transport = link.transport
        authenticate(transport, hop, settings.name, settings.identity_files, use_agent=settings.use_agent)
        transport.sock.watch(transport.ask_alive)
    except HostUnreachable:
        link.close()
        raise
    except (EOFError, OSError, paramiko.SSHException) as error:
        link.close()
        raise HostUnreachable(
            f"{hop.address} closed the connection while we logged in{_reason(error)}",
            hint=f"Look at sshd's log on {settings.name}.",
            subject=settings.name,
        ) from error
    except BaseException:
        link.close()
        raise
    return link


def host_key(settings: SshSettings, hop: Hop) -> HostKeyInfo:
    """The key a host shows now; hosts on the way are verified. Raises HostUnreachable."""
    link, key = _shake_hands(settings, hop, check=False)
    link.close()
    return key


def _shake_hands(settings: SshSettings, hop: Hop, *, check: bool) -> tuple[Link, HostKeyInfo]:
    """Connect and exchange keys, and verify the host's unless check is False."""
    _keep_quiet()
    raw, below = _dial(settings, hop)
    entries = ssh_trust.known(hop)
    transport: LinkTransport | None = None
    try:
        transport = LinkTransport(WatchedSocket(raw, settings.keepalive), ssh_trust.preferred_types(entries))
        link = Link(transport, settings.name, below)
        transport.banner_timeout = settings.connect_timeout
        transport.handshake_timeout = settings.connect_timeout
        transport.start_client(timeout=2 * settings.connect_timeout)
        key = transport.get_remote_server_key()
        info = HostKeyInfo.of(hop.known_as, key.get_name(), key.asbytes())
        if check:
            ssh_trust.check(hop, info, entries, settings.name)
    except BaseException as error:
        raw.close()
        if transport is not None:
            transport.end()
        for lower in below:
            lower.close() if isinstance(lower, Link) else _end(lower)
        if isinstance(error, paramiko.SSHException | EOFError | OSError) and not isinstance(
            error, HostUnreachable
        ):
            raise _no_handshake(error, hop, settings) from error
        raise
    return link, info


def _dial(settings: SshSettings, hop: Hop) -> tuple[RawSocket, list[Link | subprocess.Popen[bytes]]]:
    """A byte stream to the server, and what has to be closed after it."""
    if hop.jump is not None:
        return _dial_through(settings, hop, hop.jump)
    if hop.proxy_command:
        ours, theirs = socket.socketpair()
        with theirs:
            proxy = subprocess.Popen(
                ["sh", "-c", f"exec {hop.proxy_command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return ours, [proxy]
    try:
        connection = socket.create_connection((hop.host, hop.port), settings.connect_timeout)
    except (OSError, UnicodeError) as error:
        raise _no_connection(error, hop, settings) from error
    tune(connection, settings.keepalive)
    return connection, []


def _dial_through(
    settings: SshSettings, hop: Hop, jump: Hop
) -> tuple[RawSocket, list[Link | subprocess.Popen[bytes]]]:
    link = connect(settings, jump)
    try:
        channel = link.open("direct-tcpip", [hop.host, hop.port, "127.0.0.1", 0], settings.connect_timeout)
    except ChannelRefused as error:
        link.close()
        raise HostUnreachable(
            f"{jump.address} does not connect us to {hop.host}:{hop.port}{_reason(error)}",
            hint=f"Try there: nc -z {hop.host} {hop.port}. Its sshd_config must allow AllowTcpForwarding.",
            subject=settings.name,
        ) from error
    except BaseException:
        link.close()
        raise
    return channel, [link]


def _no_connection(error: Exception, hop: Hop, settings: SshSettings) -> HostUnreachable:
    if isinstance(error, socket.gaierror | UnicodeError):
        reason, hint = f"the name {hop.host!r} is unknown", "Check the address in the configuration, and DNS."
    elif isinstance(error, TimeoutError):
        reason = f"no answer within {settings.connect_timeout:g} s"
        hint = f"Is the host up, and does a firewall let port {hop.port} through?"
    elif isinstance(error, ConnectionRefusedError):
        reason, hint = "connection refused", f"Is sshd running there, on port {hop.port}?"
    else:
        reason, hint = getattr(error, "strerror", None) or str(error), "Check the network."
    return HostUnreachable(
        f"{settings.name} ({hop.address}) cannot be reached: {printable(reason)}",
        hint=hint,
        subject=settings.name,
    )


def _no_handshake(error: BaseException, hop: Hop, settings: SshSettings) -> HostUnreachable:
    hint = f"Compare with: ssh -v -p {hop.port} {hop.user}@{hop.host}"
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return HostUnreachable(
            f"{settings.name} ({hop.address}) and vmconsole share no SSH algorithm{_reason(error)}",
            hint=hint,
            subject=settings.name,
        )
    return HostUnreachable(
        f"{settings.name} ({hop.address}) does not speak SSH to us{_reason(error)}",
        hint=hint,
        subject=settings.name,
    )


def _reason(error: BaseException) -> str:
    text = printable(str(error)).strip()
    return f": {text[:200]}" if text else ""


def _end(proxy: subprocess.Popen[bytes]) -> None:
    proxy.terminate()
    try:
        proxy.wait(2.0)
    except subprocess.TimeoutExpired:
        proxy.kill()
        proxy.wait()


def _keep_quiet() -> None:
    """paramiko logs tracebacks of ordinary events; without a handler Python prints them to the terminal."""
    logger = logging.getLogger("paramiko")
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())
    logger.propagate = False
