"""Byte streams to unix sockets of a host."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable

import paramiko

from vmconsole.errors import HostError, NotPermitted, ToolMissing
from vmconsole.remote.command import complaint, printable
from vmconsole.remote.ssh_link import Link
from vmconsole.remote.ssh_process import send_all
from vmconsole.remote.ssh_transport import LinkChannel

_STATUS_TIMEOUT = 2.0
"""Seconds for the exit status to follow the end of the output."""


class SshStream:
    """A Stream over a channel. release: called once, when it is closed.

    The end of the stream is what the peer's end-of-file says; a channel that closes without one was cut.
    relayed: a program on the host connects us, whose exit status counts too.
    """

    def __init__(
        self,
        link: Link,
        channel: LinkChannel,
        release: Callable[[], None],
        path: str,
        *,
        relayed: bool = False,
    ) -> None:
        self._relayed = relayed
        self._link = link
        self._channel = channel
        self._release: Callable[[], None] | None = release
        self._path = path

    def recv(self, size: int, /) -> bytes:
        try:
            data = self._channel.recv(size)
        except TimeoutError:
            raise
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._link.lost() from error
        if data or not size:
            return data
        self._explain_end()
        return b""

    def sendall(self, data: bytes | bytearray | memoryview, /) -> None:
        send_all(
            self._link, self._channel, data, f"The socket {printable(self._path)} on {self._link.machine}"
        )

    def settimeout(self, seconds: float | None, /) -> None:
        self._channel.settimeout(seconds)

    def close(self) -> None:
        release, self._release = self._release, None
        if release is None:
            return
        try:
            self._channel.close()
        except (paramiko.SSHException, EOFError, OSError):
            pass  # the connection is gone, and the channel with it
        finally:
            release()

    def _explain_end(self) -> None:
        """Raise unless the end is a proper one."""
        if not self._channel.eof_received:
            raise self._link.lost(f"reading from {printable(self._path)}")
        if (
            self._relayed
            and self._channel.status_event.wait(_STATUS_TIMEOUT)
            and self._channel.exit_status > 0
        ):
            said = complaint(self._channel.recv_stderr(4096)) if self._channel.recv_stderr_ready() else ""
            raise HostError(
                f"The socket {printable(self._path)} on {self._link.machine} gave up"
                + (f": {said}" if said else ""),
                subject=self._link.machine,
            )


def relay_script() -> str:
    """Shell source that connects its input and output to a socket; see its first lines."""
    return importlib.resources.files(__package__).joinpath("relay.sh").read_text(encoding="utf-8")


def socket_error(word: str, path: str, machine: str) -> HostError:
    """The error for the first line of the relay script."""
    where = f"{printable(path)} on {machine}"
    if word == "missing":
        return HostError(f"There is no socket {where}", subject=machine)
    if word == "denied":
        return NotPermitted(
            f"The socket {where} may not be opened: permission denied",
            hint=f"Log in as root, or as a member of the group that owns it: ls -l {printable(path)}",
            subject=machine,
        )
    if word in ("refused", "nosocket"):
        return HostError(f"Nobody listens on the socket {where}, or it is no socket", subject=machine)
    if word == "notool":
        return ToolMissing(
            f"sshd on {machine} forwards to no sockets, and neither python3, socat nor nc -U is there",
            hint="In its sshd_config set AllowStreamLocalForwarding yes and AllowTcpForwarding yes, and no "
            "DisableForwarding, then reload sshd. Or install socat there.",
            subject=machine,
        )
    return HostError(
        f"The socket {where} cannot be opened: {printable(word) or 'no reason given'}", subject=machine
    )
