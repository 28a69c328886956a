"""Entry point: the command line, and the exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from vmconsole.errors import EXIT_INTERNAL, EXIT_INTERRUPTED
from vmconsole.interfaces import Cancel


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; never lets a traceback reach the user."""
    # Libraries log for developers; users get our own messages.
    logging.lastResort = None
    try:
        from vmconsole.cli.main import parse, run
        from vmconsole.wiring import Wiring

        args = parse(sys.argv[1:] if argv is None else argv)
        cancel = Cancel()
        before = _stop_on_signals(cancel)
        wiring = Wiring(Path(args.config) if args.config else None, cancel)
        try:
            return run(args, wiring)
        finally:
            wiring.close()
            for number, handler in before.items():
                signal.signal(number, handler)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the one place where a bug becomes a message
        return _bug(error)


def _stop_on_signals(cancel: Cancel) -> dict[signal.Signals, Any]:
    """The first signal asks for a clean stop; the second one interrupts at once. Returns the old handlers."""

    def stop(number: int, _frame: FrameType | None) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set(f"Stopped by {signal.Signals(number).name}.")
        if sys.stderr.isatty():
            os.write(2, b"\nStopping cleanly; once more to stop at once (then: vmconsole doctor --clean).\n")

    # A run started with nohup, or detached, keeps ignoring what it was told to ignore.
    wanted = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    return {number: signal.signal(number, stop) for number in wanted}


def _bug(error: Exception) -> int:
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="vmconsole-error-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    sys.stderr.write(
        f"✗ Internal error: {type(error).__name__}. This is a bug in vmconsole.\n"
        f"  → Please report it with the file {file.name}\n"
    )
    return EXIT_INTERNAL


if __name__ == "__main__":
    sys.exit(main())
