"""What paramiko's transport lacks for us.

- `direct-streamlocal@openssh.com` channels (OpenSSH PROTOCOL §2.4), with the refusal kept per channel;
- the signal that ended a program (RFC 4254 §6.10);
- channel buffers that hand over whole pieces, and that can be waited for together;
- a keep-alive question that has to be answered;
- host key algorithms in our order, without certificates.
"""

# mypy: disable-error-code="attr-defined,misc"
# This file works on the inside of paramiko, which its type stubs leave out; the tests hold it.

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import paramiko
from paramiko.buffered_pipe import PipeTimeout
from paramiko.channel import Channel
from paramiko.common import (
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    cMSG_CHANNEL_OPEN,
    cMSG_GLOBAL_REQUEST,
)

from vmconsole.remote.ssh_socket import WatchedSocket

WINDOW = 8 * 1024 * 1024
"""Bytes the server may send before we read: 8 MiB keep 1 Gbit/s busy over 64 ms, and bound our memory."""
PACKET = 128 * 1024
"""Largest channel packet we take. paramiko's cost is per packet; OpenSSH sends up to 256 KiB (packet.c)."""
_SIZED_FOR_SEND = 64
"""Bytes of a packet that paramiko leaves free for the header."""

_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)
_HOST_KEYS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
_SIGNALS = {name.removeprefix("SIG"): number for name, number in signal.Signals.__members__.items()}


class ChannelRefused(Exception):
    """The server would not open a channel. code: RFC 4254 §5.1."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Inbox:
    """One direction of a channel, in place of paramiko's BufferedPipe: keeps the pieces as they came.

    The size is bounded by the channel's window.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._pieces: deque[bytes | memoryview] = deque()
        self._size = 0
        self._closed = False

    def feed(self, data: bytes) -> None:
        with self._changed:
            if data:
                self._pieces.append(data)
                self._size += len(data)
            self._changed.notify_all()

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """One piece, at most nbytes; empty at the end. Raises PipeTimeout."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._pieces or self._closed, timeout):
                raise PipeTimeout
            if not self._pieces or not nbytes:
                return b""
            piece = self._pieces.popleft()
            if len(piece) > nbytes:
                view = memoryview(piece)
                self._pieces.appendleft(view[nbytes:])
                piece = view[:nbytes]
            self._size -= len(piece)
            return bytes(piece)

    def read_ready(self) -> bool:
        return self._size > 0

    def at_end(self) -> bool:
        return self._closed and not self._pieces

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        return self._size


class LinkChannel(Channel):
    """changed is notified when either output has news. exit_signal: number of the signal that ended it."""

    def __init__(self, chanid: int) -> None:
        super().__init__(chanid)
        self.changed = threading.Condition()
        self.out = Inbox(self.changed)
        self.err = Inbox(self.changed)
        self.in_buffer = self.out  # type: ignore[assignment] # has what Channel uses of a BufferedPipe
        self.in_stderr_buffer = self.err  # type: ignore[assignment] # likewise
        self.exit_signal = 0
        self.refused = False
        """The server answered a request with no: RFC 4254 §5.4."""

    def _request_failed(self, m: paramiko.Message) -> None:
        self.refused = True
        super()._request_failed(m)

    def _handle_request(self, m: paramiko.Message) -> None:
        if m.get_text() == "exit-signal":
            m.get_boolean()
            self.exit_signal = int(_SIGNALS.get(m.get_text(), 0))
            self.status_event.set()
        else:
            m.rewind()
            m.get_int()
            super()._handle_request(m)
        with self.changed:
            self.changed.notify_all()

    @property
    def piece(self) -> int:
        """Most bytes that one packet to the server carries."""
        return max(1, self.out_max_packet_size - _SIZED_FOR_SEND)


@contextmanager
def at_most(seconds: float, channel: Channel) -> Iterator[None]:
    """Requests on a channel wait for their answer without limit; closing it from outside ends the wait."""
    alarm = threading.Timer(seconds, channel.close)
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


class LinkTransport(paramiko.Transport):
    """host_keys: types of known_hosts to prefer in the negotiation."""

    sock: WatchedSocket  # type: ignore[assignment] # what we gave it; documented as "any object with …"

    _channel_handler_table = {  # noqa: RUF012 - the name and shape are paramiko's
        **paramiko.Transport._channel_handler_table,
        MSG_CHANNEL_REQUEST: LinkChannel._handle_request,
        MSG_CHANNEL_FAILURE: LinkChannel._request_failed,
    }

    def __init__(self, connection: WatchedSocket, host_keys: list[str]) -> None:
        super().__init__(
            connection,  # type: ignore[arg-type] # documented: any object with send, recv, close, settimeout
            default_window_size=WINDOW,
            default_max_packet_size=PACKET,
        )
        options = self.get_security_options()
        options.ciphers = tuple(name for name in _CIPHERS if name in self._cipher_info)
        options.digests = tuple(name for name in _MACS if name in self._mac_info)
        self._refusals: dict[int, ChannelRefused] = {}
        self._host_key_order = _order(host_keys)
        self._handler_table[MSG_CHANNEL_OPEN_FAILURE] = self._channel_refused

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        return self._host_key_order

    def open(self, kind: str, fields: list[str | int], timeout: float) -> LinkChannel:
        """Open a channel. fields: what follows the common part of the request, strings and uint32.

        Raises ChannelRefused, TimeoutError, EOFError when the connection is gone.
        """
        with self.lock:
            number = self._next_channel()
            channel = LinkChannel(number)
            opened = threading.Event()
            self._channels.put(number, channel)
            self.channel_events[number] = opened
            self.channels_seen[number] = True
            channel._set_transport(self)
            channel._set_window(WINDOW, PACKET)
        self._send_user_message(_open_request(kind, number, fields))
        deadline = time.monotonic() + timeout
        # close() from another thread sets no event, so look now and then.
        while self.active and not opened.wait(0.1):
            if time.monotonic() > deadline:
                self._channels.delete(number)
                raise TimeoutError
        if number in self._refusals:
            raise self._refusals.pop(number)
        if not channel.active or not self.active:
            raise EOFError
        return channel

    def ask_alive(self) -> None:
        """A question that any server answers, if only with "unknown request": RFC 4254 §4."""
        if self.clear_to_send.is_set():
            question = paramiko.Message()
            question.add_byte(cMSG_GLOBAL_REQUEST)
            question.add_string("keepalive@openssh.com")
            question.add_boolean(True)
            self.packetizer.send_message(question)

    def end(self) -> None:
        """Close, and wait for the thread."""
        self.packetizer.complete_handshake()  # else its timer thread lives on
        self.close()
        self.sock.close()
        if self.is_alive() and self is not threading.current_thread():
            self.join(2.0)

    def _channel_refused(self, m: paramiko.Message) -> None:
        number, code, text = m.get_int(), m.get_int(), m.get_text()
        with self.lock:
            event = self.channel_events.pop(number, None)
            self._channels.delete(number)
            if event is not None:
                self._refusals[number] = ChannelRefused(code, text)
                event.set()


def _open_request(kind: str, number: int, fields: list[str | int]) -> paramiko.Message:
    message = paramiko.Message()
    message.add_byte(cMSG_CHANNEL_OPEN)
    message.add_string(kind)
    message.add_int(number)
    message.add_int(WINDOW)
    message.add_int(PACKET)
    for field in fields:
        if isinstance(field, int):
            message.add_int(field)
        else:
            message.add_string(field.encode("utf-8", "surrogateescape"))
    return message


def _order(known: list[str]) -> tuple[str, ...]:
    """Algorithms, those of the known key types first."""
    wanted = ["rsa-sha2-" if kind == "ssh-rsa" else kind for kind in known]
    first = [name for name in _HOST_KEYS if any(name.startswith(kind) for kind in wanted)]
    return tuple(dict.fromkeys([*first, *_HOST_KEYS]))
