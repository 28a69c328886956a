"""`repo compact` and `repo accept`: deleting what was pruned, and saying that what vanished is all right."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from vmconsole.cli.format import duration, size
from vmconsole.cli.output import Output
from vmconsole.cli.prune import repositories
from vmconsole.cli.selection import seen_points
from vmconsole.errors import EXIT_DONE, VmconsoleError
from vmconsole.front.describe import points_text
from vmconsole.front.services import Services
from vmconsole.model.ledger import Vanished
from vmconsole.model.point import RestorePoint, iso
from vmconsole.runs.compact import Due, cutoff, due, run_compact
from vmconsole.runs.looking import Memory, refuse_vanished


def compact(args: argparse.Namespace, services: Services, output: Output) -> int:
    names = repositories(args.name, services)
    if args.dry_run:
        return _preview(names, args, services, output)
    documents: list[dict[str, Any]] = []
    failed: list[VmconsoleError] = []
    code = EXIT_DONE
    memory = Memory(services.store, services.ledger)
    with output.events(services) as watcher:
        for name in names:
            services.cancel.check()
            repository = services.repository(name)
            outcome, freed = run_compact(
                services.runner([watcher]), repository, _undo(name, args, services), memory
            )
            errors = [error for _, error in outcome.errors]
            space = repository.space()
            documents.append(
                {
                    "name": name,
                    "run": outcome.run,
                    "deleted": freed.deleted,
                    "bytes_freed": freed.bytes_freed,
                    "space": {"free": space[0], "size": space[1]} if space else None,
                    "error": errors[0].message if errors else None,
                }
            )
            failed += errors
            code = code or outcome.exit_code
    for error in failed:
        output.error(error)
    output.document({"repositories": documents})
    for document in documents:
        if document["error"] is None:
            output.line(_summary(document))
    return code


def _summary(document: dict[str, Any]) -> str:
    freed = document["bytes_freed"]
    parts = [f"{points_text(len(document['deleted']))} deleted"]
    parts.append("how much was freed is not known" if freed is None else f"about {size(freed)} freed")
    if space := document["space"]:
        parts.append(f"{size(space['free'])} of {size(space['size'])} free there now")
    return f"✓ {document['name']}: {', '.join(parts)}."


def _undo(name: str, args: argparse.Namespace, services: Services) -> float | None:
    return None if args.now else services.config.repository(name).undo


def _preview(names: list[str], args: argparse.Namespace, services: Services, output: Output) -> int:
    found: dict[str, Due] = {}
    for name in names:
        seen = seen_points(services, output, name)
        refuse_vanished(name, services.ledger.vanished(name))
        marks = {item.point.archive: item.mark for item in seen if item.mark}
        limit = cutoff(_undo(name, args, services), services.clock.now())
        found[name] = due([item.point for item in seen], marks, limit)
    output.document(
        {
            "dry_run": True,
            "repositories": [
                {
                    "name": name,
                    "delete": _archives(item.delete),
                    "later": _archives(item.later),
                    "spared": _archives(item.spared),
                    "bytes_freed": None,
                }
                for name, item in found.items()
            ],
        }
    )
    for name, item in found.items():
        output.line(f"{name}: {points_text(len(item.delete))} to delete.")
        for point in item.delete:
            output.line(f"  {point.archive}")
        for point in item.spared:
            output.line(f"  {point.archive} stays: it is the last point of {point.guest}")
        if item.later:
            undo = duration(services.config.repository(name).undo)
            output.line(f"  {points_text(len(item.later))} pruned less than {undo} ago: later, or with --now")
    output.note("Nothing was changed. How many bytes this will free is not known: points share their data.")
    return EXIT_DONE


def _archives(points: Iterable[RestorePoint]) -> list[str]:
    return [point.archive for point in points]


def accept(args: argparse.Namespace, services: Services, output: Output) -> int:
    names = repositories(args.name, services)
    for name in names:
        # Not only what was noticed before: who accepts has seen how things are now.
        seen_points(services, output, name)
    accepted = {name: services.ledger.vanished(name) for name in names}
    for name in names:
        services.ledger.accept(name)
    output.document(
        {
            "repositories": [
                {"name": n, "accepted": [_document(v) for v in gone]} for n, gone in accepted.items()
            ]
        }
    )
    for name, gone in accepted.items():
        for item in gone:
            output.line(f"✓ {name}: {item.archive} may be gone.")
        if not gone:
            output.line(f"– {name}: nothing had vanished.")
    return EXIT_DONE


def _document(gone: Vanished) -> dict[str, Any]:
    return {
        "archive": gone.archive,
        "archive_id": gone.archive_id,
        "guest": gone.guest,
        "time": iso(gone.time),
        "noticed": iso(gone.noticed),
    }
