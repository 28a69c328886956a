"""Entry point: the console or the command line, and the exit code."""

from __future__ import annotations

import gc
import json
import logging
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vmconsole.errors import EXIT_INTERNAL, EXIT_INTERRUPTED

if TYPE_CHECKING:
    import argparse

    from vmconsole.front.services import Services

_NEW_OBJECTS = 50_000
"""So many between two searches for garbage in cycles, of which commands make little. Python's 700 cost a
fifth of the start, where nearly everything made stays."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; never lets a traceback reach the user."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Libraries log for developers; users get our own messages.
    logging.lastResort = None
    gc.set_threshold(_NEW_OBJECTS)
    try:
        from vmconsole.cli.main import main as command_line
        from vmconsole.cli.streams import open_missing
        from vmconsole.interfaces import Cancel
        from vmconsole.wiring.services import Wiring

        open_missing()
        return command_line(
            words, lambda config: Wiring(Path(config) if config else None, Cancel()), _console
        )
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the one place where a bug becomes a message
        return _bug(error, as_json="--json" in words)
    finally:
        if argv is None:
            # The process ends here: what there is need not be searched for garbage once more.
            gc.freeze()


def _console(services: Services, args: argparse.Namespace) -> int:
    from vmconsole.tui.start import run

    return run(
        services, read_only=args.read_only, theme=args.theme, ascii_only=args.ascii, mouse=not args.no_mouse
    )


def _bug(error: Exception, *, as_json: bool) -> int:
    message = f"Internal error: {type(error).__name__}. This is a bug in vmconsole."
    hint = "Please report it."
    with suppress(OSError):
        with tempfile.NamedTemporaryFile("w", prefix="vmconsole-error-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
        hint = f"Please report it with the file {file.name}"
    document = {
        "error": "InternalError",
        "message": message,
        "hint": hint,
        "subject": "",
        "exit_code": EXIT_INTERNAL,
    }
    with suppress(OSError, ValueError, AttributeError):
        if as_json:
            sys.stdout.write(json.dumps(document) + "\n")
            sys.stdout.flush()
        sys.stderr.write(f"✗ {message}\n  → {hint}\n")
    return EXIT_INTERNAL


if __name__ == "__main__":
    sys.exit(main())
