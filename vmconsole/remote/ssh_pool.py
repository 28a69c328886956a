"""Connections shared by many users."""

from __future__ import annotations

import threading
from collections.abc import Callable

from vmconsole.errors import HostUnreachable
from vmconsole.remote.ssh_link import Link


class LinkPool:
    """Hands out connections, opened when first needed.

    share: users of one connection before another one is opened; limit: connections, after which
    they are shared without bound. While one thread connects the others wait, and get its error.
    """

    def __init__(self, connect: Callable[[], Link], *, share: int, limit: int) -> None:
        self._connect = connect
        self._share = share
        self._limit = limit
        self._links: list[Link] = []
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._attempt = 0
        self._failure: HostUnreachable | None = None
        self._closed = False

    def acquire(self) -> Link:
        """A living connection, with users counted up. Raises HostUnreachable."""
        link = self._existing()
        if link is not None:
            return link
        seen = self._attempt
        with self._connecting:
            if self._attempt != seen and self._failure is not None:
                raise self._failure
            link = self._existing()
            if link is not None:
                return link
            return self._open()

    def release(self, link: Link) -> None:
        with self._lock:
            link.users -= 1

    def lost(self, link: Link) -> None:
        """It turned out dead: nobody gets it any more, also while it still looks alive."""
        with self._lock:
            link.users -= 1
            self._links = [other for other in self._links if other is not link]
        link.close()

    def full(self, link: Link) -> None:
        """The server would not open another session on it: load every connection less."""
        with self._lock:
            self._share = max(1, min(self._share, link.users))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            links, self._links = self._links, []
        for link in links:
            link.close()

    def _existing(self) -> Link | None:
        """The least used connection, unless it is time for another one."""
        with self._lock:
            if self._closed:
                raise HostUnreachable("The connection was closed on our side")
            dead = [link for link in self._links if not link.alive]
            self._links = [link for link in self._links if link.alive]
            best = min(self._links, key=lambda link: link.users, default=None)
            if best is not None and (best.users < self._share or len(self._links) >= self._limit):
                best.users += 1
            else:
                best = None
        for link in dead:
            link.close()
        return best

    def _open(self) -> Link:
        self._failure = None
        try:
            link = self._connect()
        except HostUnreachable as error:
            self._failure = error
            raise
        finally:
            self._attempt += 1
        with self._lock:
            link.users = 1
            closed = self._closed
            if not closed:
                self._links.append(link)
        if closed:
            link.close()
            raise HostUnreachable("The connection was closed on our side", subject=link.machine)
        return link
