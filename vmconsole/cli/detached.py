"""Runs in the background: starting one, and watching one that somebody else started."""

from __future__ import annotations

from collections.abc import Sequence

from vmconsole.cli.documents import run_document
from vmconsole.cli.output import Output
from vmconsole.errors import EXIT_DONE, EXIT_FAILED
from vmconsole.front.background import begin_run
from vmconsole.front.describe import event_from
from vmconsole.front.services import Services
from vmconsole.model.run import Run, RunState

_POLL_SECONDS = 0.3


def start_in_background(argv: Sequence[str], services: Services, output: Output) -> int:
    """Start vmconsole with these arguments and wait until its run has begun. Raises VmconsoleError."""
    with output.busy("Starting in the background …"):
        run = begin_run(argv, services)
    output.document({"run": run_document(run)})
    output.line(f"✓ Run {run.id} has started in the background.")
    output.hint(f"Follow it: vmconsole runs {run.id} --follow")
    output.hint(f"Stop it:   vmconsole stop {run.id}")
    return EXIT_DONE


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
