"""Borg's modules are written for a terminal; here they speak to the engine alone.

Borg logs through a process-wide configuration, prints what a remote `borg serve` or ssh says on
stderr, and asks questions on stdin. prepare() must come before anything else of Borg is used: it
closes these three doors once per process. What Borg says goes to whoever listens in the same thread.
"""

from __future__ import annotations

import io
import json
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import borg.cache
import borg.remote
from borg.logger import setup_logging

_log = logging.getLogger("vmconsole.borg")
_listeners = threading.local()

ANSWERS = frozenset({"BORG_RELOCATED_REPO_ACCESS_IS_OK", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK"})
"""Questions answered with yes. A repository that moved: its location is what the operator wrote in the
configuration, and its id and key are checked all the same. An unencrypted one that was never seen
before: access.py has refused it already unless the configuration says it is not encrypted."""


@cache
def prepare() -> None:
    """Set Borg up for use inside another program. Idempotent."""
    root = logging.getLogger()
    handlers, level, showwarning = root.handlers[:], root.level, warnings.showwarning
    # Without this call Borg's loggers raise; all it does to the rest of the process is undone.
    setup_logging(stream=io.StringIO(), env_var=None, level="warning")
    root.handlers[:] = handlers
    root.setLevel(level)
    warnings.showwarning = showwarning
    spoken = logging.getLogger("borg")
    spoken.addHandler(_Ear())
    spoken.setLevel(logging.WARNING)
    spoken.propagate = False
    borg.remote.handle_remote_line = hear_remote
    borg.cache.yes = _answer


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Hand every line that Borg says in this thread to listener."""
    before = getattr(_listeners, "current", None)
    _listeners.current = listener
    try:
        yield
    finally:
        _listeners.current = before


class _Ear(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _hear(record.getMessage())


def _hear(line: str) -> None:
    listener = getattr(_listeners, "current", None)
    if listener is not None:
        listener(line)
    else:
        _log.info("borg: %s", line)


def hear_remote(line: str) -> None:
    """Take a line of the other side's stderr: Borg's JSON, or whatever ssh and the login shell print."""
    text = line.strip()
    if text.startswith("{"):
        try:
            message = json.loads(text)
        except ValueError:
            message = {"type": "log_message", "message": text}
        if message.get("type") != "log_message":
            return
        text = str(message.get("message", ""))
    if text:
        _hear(f"Remote: {text}")


def _answer(message: str = "", *_: Any, env_var_override: str = "", **__: Any) -> bool:
    """Stands in for Borg's `yes`: never a prompt, never a print."""
    answer = env_var_override in ANSWERS
    _hear(f"{message.strip().splitlines()[0] if message else env_var_override} ({'yes' if answer else 'no'})")
    return answer
