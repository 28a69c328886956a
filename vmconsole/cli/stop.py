"""Stop a run cleanly: the guest is released, nothing half-written stays."""

from __future__ import annotations

import argparse

from vmconsole.cli.documents import run_document
from vmconsole.cli.output import Output
from vmconsole.cli.runs import find_run
from vmconsole.errors import EXIT_DONE, VmconsoleError
from vmconsole.front.services import Services
from vmconsole.model.run import Run, RunState

HELP = "stop a run cleanly"
_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run's id, or its beginning; or `last`")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    row = find_run(args.run, services)
    if row.state is not RunState.RUNNING:
        return _say(row, f"Run {row.id} is not running: {row.state.value}.", stopped=False, output=output)
    if not services.stop_process(row.process):
        raise VmconsoleError(
            f"Run {row.id} is not a process of this machine ({row.process}).",
            hint="Stop it on the machine where it runs.",
            subject=row.id,
        )
    deadline = services.clock.monotonic() + _WAIT_SECONDS
    with output.busy(f"Waiting for run {row.id} to clean up …"):
        while (current := services.store.run(row.id)).state is RunState.RUNNING:
            if services.clock.monotonic() > deadline:
                raise VmconsoleError(
                    f"Run {row.id} was asked to stop and is still cleaning up.",
                    hint=f"Watch it: vmconsole runs {row.id} --follow",
                    subject=row.id,
                )
            services.cancel.wait(_POLL_SECONDS)
    return _say(current, f"✓ Run {row.id} has stopped.", stopped=True, output=output)


def _say(row: Run, text: str, *, stopped: bool, output: Output) -> int:
    output.document({"run": run_document(row), "stopped": stopped})
    output.line(text)
    return EXIT_DONE
