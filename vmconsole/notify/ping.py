"""Dead man's switches: a watchdog elsewhere raises the alarm when it hears nothing from us."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

from vmconsole import __version__
from vmconsole.model.message import Delivery
from vmconsole.model.words import visible
from vmconsole.notify.limit import TooSlow, within
from vmconsole.notify.secrecy import place, without_secrets

_TIME_LIMIT = 10.0
_PAUSES = (0.5, 2.0)
"""Seconds before the second and third attempt: a ping that is lost is a false alarm at night."""


class HttpPinger:
    """Implements interfaces.Pinger. limit: seconds for one attempt."""

    def __init__(self, limit: float = _TIME_LIMIT, sleep: Callable[[float], None] = time.sleep) -> None:
        self._limit = limit
        self._sleep = sleep

    def ping(self, group: str, url: str, word: str = "") -> Delivery:
        problem = self._attempt(address(url, word), url)
        # the start of a run does not wait for a watchdog; its end is what counts
        for pause in () if word == "start" else _PAUSES:
            if not problem:
                break
            self._sleep(pause)
            problem = self._attempt(address(url, word), url)
        if not problem:
            return Delivery(f"ping {group}")
        return Delivery(
            f"ping {group}",
            f"The watchdog of group {group} at {place(url)} was not reached: {problem}.",
            f"Look at ping in [groups.{group}], and at: curl -I {place(url)}",
        )

    def _attempt(self, target: str, url: str) -> str:
        """What went wrong; empty when nothing did."""
        try:
            within(self._limit, lambda: _get(target, self._limit))
        except TooSlow:
            return f"no answer within {self._limit:g} s"
        except urllib.error.HTTPError as error:
            error.close()
            return f"it answered {error.code}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            return visible(without_secrets(text, url))
        return ""


def address(url: str, word: str) -> str:
    """The URL with a word added to its path, before a query: `https://hc.example/ID/fail?x=1`."""
    if not word:
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{word}"))


def _get(target: str, timeout: float) -> None:
    request = urllib.request.Request(target, headers={"User-Agent": f"vmconsole/{__version__}"})  # noqa: S310
    # S310: the configuration lets only http:// and https:// pass
    with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
        answer.read(1024)
