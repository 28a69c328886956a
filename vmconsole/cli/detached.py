"""Runs in the background: starting one, and watching one that somebody else started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vmconsole.cli.describe import event_from
from vmconsole.cli.documents import run_document
from vmconsole.cli.output import Output
from vmconsole.cli.services import Services
from vmconsole.errors import EXIT_DONE, EXIT_FAILED, VmconsoleError
from vmconsole.model.run import Run, RunState

_START_SECONDS = 120.0
_POLL_SECONDS = 0.3
_MAX_SAID = 4096


def start_in_background(argv: Sequence[str], services: Services, output: Output) -> int:
    """Start vmconsole with these arguments and wait until its run has begun. Raises VmconsoleError."""
    # Opened here so that a state folder that cannot be used is said here.
    services.store.runs(1)
    log = services.config.state_dir / "detached.log"
    written = log.stat().st_size if log.exists() else 0
    process = services.detach(["--config", str(services.config_path), *argv])
    with output.busy("Starting in the background …"):
        run = _begun(process, services)
    if run is None:
        raise _never_begun(log, written)
    output.document({"run": run_document(run)})
    output.line(f"✓ Run {run.id} has started in the background.")
    output.hint(f"Follow it: vmconsole runs {run.id} --follow")
    output.hint(f"Stop it:   vmconsole stop {run.id}")
    return EXIT_DONE


def _never_begun(log: Path, written: int) -> VmconsoleError:
    """What the process said before it ended: the log from byte `written` on."""
    try:
        with log.open("rb") as file:
            file.seek(written)
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


def follow(run: Run, services: Services, output: Output) -> Run:
    """Show a run until it ends; returns it as it ended. KeyboardInterrupt leaves it alone."""
    after = 0
    with output.watching(services) as watcher:
        while True:
            # The state is read before the events, so that the last events of a run that ends now are shown.
            current = services.store.run(run.id)
            for sequence, when, document in services.store.events(run.id, after):
                after = sequence
                event = event_from(document) if output.on_screen else None
                if event is None:
                    output.stored_event(when, document)
                else:
                    watcher(event)
            if current.state is not RunState.RUNNING or output.unread:
                return current
            services.cancel.wait(_POLL_SECONDS)


def exit_code_of(run: Run) -> int:
    """The code the run's own process ended with, or would have."""
    if run.exit_code is not None:
        return run.exit_code
    return EXIT_DONE if run.state is RunState.RUNNING else EXIT_FAILED
