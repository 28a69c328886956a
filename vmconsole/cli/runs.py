"""Runs: what happened, and what is happening now.

vmconsole runs                   the last fifty
vmconsole runs RUN               one run's log
vmconsole runs --follow          watch the newest; Ctrl-C leaves it running
"""

from __future__ import annotations

import argparse

from vmconsole.cli.detached import exit_code_of, follow
from vmconsole.cli.documents import run_document
from vmconsole.cli.format import duration
from vmconsole.cli.output import Output
from vmconsole.cli.parser import at_least_one
from vmconsole.cli.table import Column
from vmconsole.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError
from vmconsole.front.services import Services
from vmconsole.model.run import Run, RunState

HELP = "history, log and progress of runs"
_GLYPHS = {
    RunState.RUNNING: "▶",
    RunState.DONE: "✓",
    RunState.WARNINGS: "!",
    RunState.FAILED: "✗",
    RunState.CANCELLED: "–",
    RunState.DIED: "✗",
}
_DIED = "the process vanished; clean up after it with: vmconsole doctor --clean"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run's id, or its beginning; or `last`")
    parser.add_argument("--follow", "-f", action="store_true", help="go on until the run ends")
    parser.add_argument("--limit", type=at_least_one, default=50, metavar="N", help="how many runs to list")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    if args.run is None and not args.follow:
        return _list(args.limit, services, output)
    row = find_run(args.run or "last", services)
    return _follow(row, services, output) if args.follow else _log(row, services, output)


def find_run(name: str, services: Services) -> Run:
    """By id, its beginning, or `last`. Raises UsageError."""
    if name != "last":
        return services.store.run(name)
    recent = services.store.runs(1)
    if not recent:
        raise UsageError("There are no runs yet.", hint="Start one with: vmconsole backup --all")
    return recent[0]


def _list(limit: int, services: Services, output: Output) -> int:
    rows = services.store.runs(limit)
    output.document({"runs": [run_document(row) for row in rows]})
    if not rows:
        output.note("No runs yet. Start one with: vmconsole backup --all")
        return EXIT_DONE
    columns = (
        Column("run"),
        Column("state"),
        Column("what", least=16),
        Column("started", drop=1),
        Column("took", right=True, drop=2),
        Column("error", below=True, least=30),
    )
    output.table(columns, [_row(row, services) for row in rows])
    return EXIT_DONE


def _row(row: Run, services: Services) -> tuple[str, ...]:
    ended = row.ended or (services.clock.now() if row.state is RunState.RUNNING else None)
    return (
        row.id,
        f"{_GLYPHS[row.state]} {row.state.value}",
        f"{row.kind} {row.subject}",
        f"{row.started.astimezone():%Y-%m-%d %H:%M}",
        duration((ended - row.started).total_seconds()) if ended else "–",
        _error(row),
    )


def _error(row: Run) -> str:
    return _DIED if row.state is RunState.DIED and not row.error else row.error


def _log(row: Run, services: Services, output: Output) -> int:
    if not output.json:
        output.line(f"Run {row.id}, started {row.started.astimezone():%Y-%m-%d %H:%M:%S %z}", style="bold")
    for _, when, document in services.store.events(row.id):
        output.stored_event(when, document)
    _show_end(row, output)
    return EXIT_DONE


def _follow(row: Run, services: Services, output: Output) -> int:
    output.note(f"Run {row.id}: {row.kind} {row.subject}")
    try:
        ended = follow(row, services, output)
    except KeyboardInterrupt:
        output.note(f"Run {row.id} goes on by itself. Stop it with: vmconsole stop {row.id}")
        return EXIT_INTERRUPTED
    _show_end(ended, output)
    return exit_code_of(ended)


def _show_end(row: Run, output: Output) -> None:
    error = f": {_error(row)}" if _error(row) else ""
    output.line(f"{_GLYPHS[row.state]} {row.state.value}{error}")
    if row.state is RunState.RUNNING:
        output.hint(f"Follow it: vmconsole runs {row.id} --follow")
