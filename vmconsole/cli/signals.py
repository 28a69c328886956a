"""What Ctrl-C, `kill` and a closed terminal do: a run is stopped cleanly, anything else at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vmconsole.interfaces import Cancel

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPING = "Stopping cleanly. Ctrl-C again: at once (then: vmconsole doctor --clean)."
Handler = Callable[[int, FrameType | None], None]


@contextmanager
def interruptible() -> Iterator[None]:
    """Every stopping signal raises KeyboardInterrupt, so that whatever is open gets closed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled_by(interrupt):
        yield


@contextmanager
def clean_stop(cancel: Cancel, tell: Callable[[], None]) -> Iterator[None]:
    """The first signal asks for a clean stop and calls tell, which must not wait for a lock; the
    second one interrupts at once.
    """

    asked = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        # Not here: the thread that the signal interrupted may hold the token's own lock.
        reason = f"Stopped by {signal.Signals(number).name}."
        threading.Thread(target=cancel.set, args=(reason,), name="stop", daemon=True).start()
        tell()

    with _handled_by(stop):
        yield


@contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    """Signals that are ignored stay ignored: nohup and detached processes were told so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, handler)
        for number in _STOPPING
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
