"""A read-only NBD server: many exports, many clients, a thread for each client."""

from __future__ import annotations

import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vmconsole.disks.nbd.offer import offer
from vmconsole.disks.nbd.serving import converse
from vmconsole.disks.nbd.source import ExportSource
from vmconsole.disks.nbd.wire import Wire
from vmconsole.errors import HostError, ProtocolError, UsageError
from vmconsole.remote.machine import DEFAULT_TIMEOUT, Stream

_BACKLOG: Final = 16
_MAX_PATH: Final = 107
_RETRY: Final = 1.0
_log: Final = logging.getLogger(__name__)


class NbdServer:
    """Serves exports by name until closed. The mapping is asked anew for every client.

    One client's errors, lies and silence end its own connection only. timeout, in seconds: for a
    whole negotiation, for the rest of a request that has begun, and for a client that takes no
    more data. A client may be silent between requests for as long as it likes.
    """

    def __init__(
        self,
        exports: Mapping[str, ExportSource],
        *,
        max_clients: int = 64,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self._exports = exports
        self._max_clients = max_clients
        self._timeout = timeout
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._listeners: list[_Listener] = []
        self._streams: set[Stream] = set()
        self._threads: set[threading.Thread] = set()

    def listen_unix(self, path: Path | str, *, mode: int = 0o600) -> None:
        """Accept clients on a unix socket, in a thread. A socket nobody listens on is replaced.

        Raises UsageError (path too long), HostError (in use, no permission).
        """
        place = Path(path)
        if len(os.fsencode(place)) > _MAX_PATH:
            raise UsageError(f"The socket's path “{place}” is longer than {_MAX_PATH} bytes.")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(place)
            listener.bind(str(place))
            place.chmod(mode)
            inode = place.lstat().st_ino
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise HostError(
                f"The socket “{place}” cannot be opened: {error.strerror or error}.",
                hint="Choose another path, in a folder this user may write to.",
                subject=str(place),
            ) from error
        except BaseException:
            listener.close()
            raise
        ours = _Listener(listener, place, inode)
        with self._lock:
            self._listeners.append(ours)
        if not self._start("nbd-accept", partial(self._accept, listener)):
            ours.close()

    def serve(self, stream: Stream) -> None:
        """Serve one client in this thread until it leaves; the stream is then closed. Never raises."""
        with self._lock:
            admitted = not self._closed.is_set() and len(self._streams) < self._max_clients
            if admitted:
                self._streams.add(stream)
        wire = Wire(stream, self._timeout, "client")
        try:
            if admitted:
                self._converse(wire)
            else:
                _log.warning("an NBD client was turned away: %d are served already", self._max_clients)
        except (HostError, ProtocolError) as error:
            _log.info("an NBD client was dropped: %s", error)
        except Exception:  # noqa: BLE001 - a broken source must not take other clients along
            _log.exception("an NBD client was dropped because of a fault of ours")
        finally:
            with self._lock:
                self._streams.discard(stream)
            wire.close()

    def close(self) -> None:
        """Stop listening, drop every client, wait for their threads. Idempotent."""
        with self._lock:
            self._closed.set()
            listeners, self._listeners = self._listeners, []
            streams = list(self._streams)
            threads = list(self._threads)
        for listener in listeners:
            listener.close()
        for stream in streams:
            _hang_up(stream)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    def _converse(self, wire: Wire) -> None:
        wire.limit(self._timeout)
        agreement = offer(wire, self._exports)
        wire.limit(None)
        if agreement is not None:
            converse(wire, agreement)

    def _accept(self, listener: socket.socket) -> None:
        while not self._closed.is_set():
            try:
                stream, _ = listener.accept()
            except OSError as error:
                if not self._closed.is_set():
                    _log.warning("an NBD client could not be accepted: %s", error)
                    self._closed.wait(_RETRY)
                continue
            if not self._start("nbd-client", partial(self.serve, stream)):
                stream.close()

    def _start(self, name: str, target: Callable[[], None]) -> bool:
        """Run it in a thread that close() waits for; False when that has begun already."""

        def work() -> None:
            try:
                target()
            finally:
                with self._lock:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=work, name=name, daemon=True)
        with self._lock:
            if self._closed.is_set():
                return False
            self._threads.add(thread)
            thread.start()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Listener:
    socket: socket.socket
    place: Path
    inode: int

    def close(self) -> None:
        """Remove the socket file too, unless another one took its place."""
        _hang_up(self.socket)
        self.socket.close()
        with suppress(OSError):
            if self.place.lstat().st_ino == self.inode:
                self.place.unlink()


def _remove_stale(place: Path) -> None:
    """Remove a socket that nobody listens on; anything else there makes bind() fail."""
    try:
        if not stat.S_ISSOCK(place.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(place))
        except ConnectionRefusedError:
            place.unlink()


def _hang_up(stream: Stream | socket.socket) -> None:
    """Wake the thread that waits on it: closing a socket does not, shutting it down does."""
    with suppress(OSError, EOFError):
        if isinstance(stream, socket.socket):
            stream.shutdown(socket.SHUT_RDWR)
        else:
            stream.close()
