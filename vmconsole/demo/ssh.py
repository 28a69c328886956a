"""An SSH server for the demo: public-key login, programs in a real shell, unix sockets. Loopback only.

Programs run as the user who started the demo, in a shell whose PATH has the demo's own `virsh` and
`qemu-nbd` first. `direct-streamlocal@openssh.com` (OpenSSH's PROTOCOL, section 2.4) opens sockets
inside one folder.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_REQUEST,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_FAILED_CONNECT_FAILED,
    OPEN_FAILED_UNKNOWN_CHANNEL_TYPE,
    OPEN_SUCCEEDED,
)

from vmconsole.demo.ssh_channels import Forward, Session, connect_unix

_LOG = "vmconsole.demo.ssh"
_WINDOW = 16 * 1024 * 1024
_STREAMLOCAL = "direct-streamlocal@openssh.com"
_JOIN_SECONDS = 10.0


class SshServer:
    """Serves 127.0.0.1. folder gets `host_key`, `client_key` (both 0600) and `known_hosts`.

    env: of the programs. home: their working folder. sockets: the folder whose sockets may be opened.
    places: which folder stands for what the client calls by that prefix (`/run/`). key: the client's
    key when another server made it. grace: seconds a program may take to end by itself once its
    connection is gone.
    """

    def __init__(
        self,
        folder: Path,
        *,
        env: Mapping[str, str],
        home: Path,
        sockets: Path,
        places: Mapping[str, Path] | None = None,
        key: paramiko.Ed25519Key | None = None,
        grace: float = 3.0,
    ) -> None:
        self.grace = grace
        self.env = dict(env)
        self.home = home
        self.sockets = sockets.resolve()
        self.places = dict(places or {})
        self.client_key = folder / "client_key"
        self.known_hosts = folder / "known_hosts"
        self._host_key = _new_key(folder / "host_key")
        self.accepted_key = key or _new_key(self.client_key)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=32)
        self.port: int = self._listener.getsockname()[1]
        self.known_hosts.write_text(
            f"[127.0.0.1]:{self.port} {self._host_key.get_name()} {self._host_key.get_base64()}\n"
        )
        self.refusing = False
        """Set it to hang up on every new connection, as a host that is down does."""
        self._stopping = False
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        logging.getLogger(_LOG).addHandler(logging.NullHandler())
        logging.getLogger(_LOG).propagate = False
        self._thread = threading.Thread(target=self._accept, name="demo-ssh-accept", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close every connection, end every program; returns when all threads have ended."""
        with self._lock:
            self._stopping = True
        # A thread in accept() is woken by shutdown, not by close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)
        self.drop_connections()

    def place(self, wanted: str) -> Path:
        """The socket behind what the client calls it."""
        for prefix, folder in self.places.items():
            if wanted.startswith(prefix):
                return folder / wanted.removeprefix(prefix)
        return Path(wanted)

    def drop_connections(self) -> None:
        """Break all connections, as a network failure would."""
        with self._lock:
            connections, self._connections = self._connections, []
        for connection in connections:
            connection.end()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                peer.close()
                continue
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(peer, self)
            with self._lock:
                finished = [item for item in self._connections if not item.is_active()]
                self._connections = [item for item in self._connections if item.is_active()]
                refuse = self._stopping
                if not refuse:
                    self._connections.append(connection)
            for item in finished:
                item.end()
            if refuse:
                peer.close()
                return
            connection.add_server_key(self._host_key)
            # With an event given it does not wait for the handshake.
            connection.start_server(threading.Event(), _Policy(self, connection))


_Library: Any = paramiko.Transport
"""The server side of unix sockets needs parts of the library that it does not declare."""


def _handle_request(channel: Any, message: paramiko.Message) -> None:
    """As the library does it, but a program's output waits until its request was answered."""
    channel._handle_request(message)
    session: Session | None = channel.transport.sessions.get(channel.get_id())
    if session is not None:
        session.replied()


class _Connection(_Library):  # type: ignore[misc]  # untyped on purpose, see _Library
    """One client. Channels are handed on as they open, instead of being queued for accept()."""

    _channel_handler_table = {  # noqa: RUF012 (the library's own class attribute)
        **_Library._channel_handler_table,
        MSG_CHANNEL_REQUEST: _handle_request,
    }

    def __init__(self, peer: socket.socket, server: SshServer) -> None:
        super().__init__(peer, default_window_size=_WINDOW)
        self.daemon = True
        self.set_log_channel(_LOG)
        self.wanted_socket = ""
        self.accepted: dict[int, socket.socket] = {}
        self.sessions: dict[int, Session] = {}
        self._forwards: list[Forward] = []
        self._server = server
        self._handler_table[MSG_CHANNEL_OPEN] = self._parse_open

    def end(self) -> None:
        self.close()
        self.sock.close()
        if self.is_alive():
            self.join(_JOIN_SECONDS)
        for session in list(self.sessions.values()):
            session.end(self._server.grace)
        for forward in self._forwards:
            forward.end()
        for connected in self.accepted.values():
            connected.close()

    def _parse_open(self, message: paramiko.Message) -> None:
        """Remember which socket is asked for: the library's callback does not get to see it."""
        if message.get_text() == _STREAMLOCAL:
            for _ in range(3):
                message.get_int()
            self.wanted_socket = message.get_text()
        message.rewind()
        self._parse_channel_open(message)

    def _queue_incoming_channel(self, channel: paramiko.Channel) -> None:
        connected = self.accepted.pop(channel.get_id(), None)
        self._forwards = [forward for forward in self._forwards if forward.is_alive()]
        self.sessions = {number: item for number, item in self.sessions.items() if not item.is_done()}
        if connected is not None:
            self._forwards.append(Forward(channel, connected))
        else:
            self.sessions[channel.get_id()] = Session(channel, self._server.env, self._server.home)


class _Policy(paramiko.ServerInterface):
    """Who may come in, and what they may ask for."""

    def __init__(self, server: SshServer, connection: _Connection) -> None:
        self._server = server
        self._connection = connection

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if key == self._server.accepted_key:
            return AUTH_SUCCESSFUL
        return AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if kind == "session":
            return OPEN_SUCCEEDED
        if kind != _STREAMLOCAL:
            return OPEN_FAILED_UNKNOWN_CHANNEL_TYPE
        path = self._server.place(self._connection.wanted_socket)
        if "\0" in str(path) or not path.resolve().is_relative_to(self._server.sockets):
            return OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        try:
            self._connection.accepted[chanid] = connect_unix(path)
        except OSError:
            return OPEN_FAILED_CONNECT_FAILED
        return OPEN_SUCCEEDED

    def check_channel_pty_request(
        self,
        channel: paramiko.Channel,
        term: bytes,
        width: int,
        height: int,
        pixelwidth: int,
        pixelheight: int,
        modes: bytes,
    ) -> bool:
        return self._session(channel).set_pty()

    def check_channel_env_request(self, channel: paramiko.Channel, name: bytes, value: bytes) -> bool:
        return self._session(channel).set_env(os.fsdecode(name), os.fsdecode(value))

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        return self._session(channel).start(["/bin/sh"])

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return self._session(channel).start(["/bin/sh", "-c", command])

    def _session(self, channel: paramiko.Channel) -> Session:
        return self._connection.sessions[channel.get_id()]


def _new_key(path: Path) -> paramiko.Ed25519Key:
    """A fresh key, stored in OpenSSH's format with mode 0600."""
    private = Ed25519PrivateKey.generate()
    text = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
    return paramiko.Ed25519Key.from_private_key_file(str(path))
