"""Runs that go on when whoever started them is gone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vmconsole.errors import VmconsoleError
from vmconsole.front.services import Services
from vmconsole.model.run import Run

_START_SECONDS = 120.0
_POLL_SECONDS = 0.3
_MAX_SAID = 4096


def begin_run(argv: Sequence[str], services: Services) -> Run:
    """Start vmconsole with these arguments, in a session of its own, and wait until its run has begun.

    argv: of a command that makes a run. Raises VmconsoleError with what the process said when it ended before.
    """
    # Opened here so that a state folder that cannot be used is said here.
    services.store.runs(1)
    log = services.config.state_dir / "detached.log"
    written = log.stat().st_size if log.exists() else 0
    process = services.detach(["--config", str(services.config_path), *argv])
    run = _begun(process, services)
    if run is None:
        raise _never_begun(log, written)
    return run


def _never_begun(log: Path, written: int) -> VmconsoleError:
    """What the process said before it ended: the log from byte `written` on."""
    try:
        with log.open("rb") as file:
            # A log that had grown large was begun anew.
            file.seek(written if written <= log.stat().st_size else 0)
            said = file.read(_MAX_SAID).decode("utf-8", "replace")
    except OSError:
        said = ""
    reason = said.strip().removeprefix("✗ ").replace("\n  ", "\n")
    if not reason:
        return VmconsoleError("The background process ended before its run began.", hint=f"See {log}")
    message, _, hint = reason.partition("\n→ ")
    return VmconsoleError(f"Nothing was started: {message}", hint=hint or f"See {log}")


def _begun(process: str, services: Services) -> Run | None:
    deadline = services.clock.monotonic() + _START_SECONDS
    while services.clock.monotonic() < deadline:
        # asked first: a run that ends right now has left its row by then
        dead = services.store.process_is_dead(process)
        for run in services.store.runs(20):
            if run.process == process:
                return run
        if dead:
            return None
        services.cancel.wait(_POLL_SECONDS)
    raise VmconsoleError(
        "The background process has not begun its run after two minutes.",
        hint="It may still be asking the hosts; look again with: vmconsole runs",
    )
