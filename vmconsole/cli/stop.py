"""Stop a run cleanly: the guest is released, nothing half-written stays in the repository."""

from __future__ import annotations

import argparse

from vmconsole.cli.output import Output
from vmconsole.cli.services import Services
from vmconsole.errors import EXIT_DONE, EXIT_FAILED
from vmconsole.model.run import RunState

HELP = "stop a run cleanly"
_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run's id, or its beginning")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    row = services.store.run(args.run)
    if row.state is not RunState.RUNNING:
        output.line(f"Run {row.id} is not running: {row.state.value}.")
        return EXIT_DONE
    if not services.stop_process(row.process):
        output.line(
            f"Run {row.id} died or belongs to another machine ({row.process}). "
            "Clean up after it with: vmconsole doctor --clean"
        )
        return EXIT_FAILED
    deadline = services.clock.monotonic() + _WAIT_SECONDS
    while services.store.run(row.id).state is RunState.RUNNING:
        if services.clock.monotonic() > deadline:
            output.line(f"Run {row.id} was asked to stop and is still cleaning up.")
            return EXIT_FAILED
        services.cancel.wait(_POLL_SECONDS)
    output.line(f"Run {row.id} has stopped.")
    return EXIT_DONE
