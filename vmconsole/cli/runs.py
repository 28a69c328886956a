"""Runs: what happened, and what is happening now.

vmconsole runs                   the last fifty
vmconsole runs RUN               one run's log
vmconsole runs RUN --follow      until it ends
"""

from __future__ import annotations

import argparse

from vmconsole.cli.documents import run_document
from vmconsole.cli.format import duration
from vmconsole.cli.output import Output
from vmconsole.cli.services import Services
from vmconsole.errors import EXIT_DONE, UsageError
from vmconsole.model.run import Run, RunState

HELP = "history, log and progress of runs"
_POLL_SECONDS = 0.5
_GLYPHS = {
    RunState.RUNNING: "▶",
    RunState.DONE: "✓",
    RunState.WARNINGS: "!",
    RunState.FAILED: "✗",
    RunState.CANCELLED: "‖",
    RunState.DIED: "✗",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run's id, or its beginning; `last`")
    parser.add_argument("--follow", "-f", action="store_true", help="go on until the run ends")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="how many runs to list")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    if args.run is None and not args.follow:
        return _list(args.limit, services, output)
    recent = services.store.runs(1)
    if args.run in (None, "last"):
        if not recent:
            raise UsageError("There are no runs yet.", hint="Start one with: vmconsole backup --all")
        row = recent[0]
    else:
        row = services.store.run(args.run)
    return _show(row, services, output, follow=args.follow)


def _list(limit: int, services: Services, output: Output) -> int:
    rows = services.store.runs(limit)
    if output.json:
        output.document({"runs": [run_document(row) for row in rows]})
    output.table(
        ("run", "state", "what", "started", "took", "error"),
        [
            (
                row.id,
                f"{_GLYPHS[row.state]} {row.state.value}",
                f"{row.kind} {row.subject}",
                f"{row.started.astimezone():%Y-%m-%d %H:%M:%S}",
                duration(((row.ended or services.clock.now()) - row.started).total_seconds()),
                row.error,
            )
            for row in rows
        ],
        right=("took",),
    )
    return EXIT_DONE


def _show(row: Run, services: Services, output: Output, *, follow: bool) -> int:
    after = 0
    while True:
        # The state is read before the events, so that the last events of a run that ends now are shown.
        current = services.store.run(row.id)
        for sequence, when, document in services.store.events(row.id, after):
            after = sequence
            output.event({"time": when.isoformat(), **document} if output.json else document)
        if not follow or current.state is not RunState.RUNNING:
            break
        services.cancel.wait(_POLL_SECONDS)
    if not output.json:
        output.line(f"{_GLYPHS[current.state]} {current.state.value} {current.error}".rstrip())
    return current.exit_code if follow and current.exit_code is not None else EXIT_DONE
