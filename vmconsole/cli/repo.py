"""Borg repositories.

vmconsole repo init main /srv/backup/vms --passphrase-file ~/.borg-passphrase
vmconsole repo check main --verify-data
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmconsole.cli.format import size
from vmconsole.cli.output import Output
from vmconsole.cli.services import Services
from vmconsole.errors import EXIT_DONE, EXIT_FAILED, UsageError
from vmconsole.interfaces import RepositoryInfo
from vmconsole.model.point import iso

HELP = "make, list, inspect and check repositories"


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    init = verbs.add_parser(
        "init", help="make a repository; with a location, add it to the configuration first"
    )
    init.add_argument("name", metavar="NAME")
    init.add_argument(
        "location", nargs="?", metavar="LOCATION", help="a folder, or ssh://user@host:port/path"
    )
    init.add_argument("--encryption", metavar="MODE", help="default: repokey-blake2")
    secret = init.add_mutually_exclusive_group()
    secret.add_argument("--passphrase-file", metavar="FILE", help="file that holds the passphrase, mode 0600")
    secret.add_argument("--passphrase-command", nargs="+", metavar="ARG", help="program that prints it")
    secret.add_argument("--passphrase-env", metavar="NAME", help="environment variable that holds it")
    secret.add_argument("--passphrase-credential", metavar="NAME", help="systemd credential that holds it")
    secret.add_argument("--passphrase-keyring", metavar="SERVICE/USER", help="keyring entry that holds it")
    verbs.add_parser("list", help="list repositories")
    info = verbs.add_parser("info", help="sizes and settings")
    info.add_argument("name", metavar="NAME", nargs="?", help="default: all")
    check = verbs.add_parser("check", help="check consistency with stock borg")
    check.add_argument("name", metavar="NAME", nargs="?", help="default: all")
    check.add_argument("--verify-data", action="store_true", help="read and verify every chunk (slow)")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    actions = {"init": _init, "list": _list, "info": _info, "check": _check}
    return actions[args.action](args, services, output)


def _init(args: argparse.Namespace, services: Services, output: Output) -> int:
    if args.location:
        values: dict[str, object] = {"location": full_location(args.location)}
        if args.encryption:
            values["encryption"] = args.encryption
        sources = ("file", "command", "env", "credential", "keyring")
        for source in sources:
            if given := getattr(args, f"passphrase_{source}"):
                values["passphrase"] = {source: full_location(given) if source == "file" else given}
        services.editor.add("repositories", args.name, values)
    elif args.encryption or args.passphrase_file:
        raise UsageError("--encryption and --passphrase-… go with a location.")
    services.config.repository(args.name)
    created = services.repository(args.name).create()
    settings = services.config.repository(args.name)
    if output.json:
        output.document({"name": args.name, "id": created, "location": settings.location})
    output.line(f"✓ Repository {args.name} was made at {settings.location} ({settings.encryption}).")
    if settings.encryption != "none":
        output.line("  → Keep the passphrase in a second place: without it nobody can restore, ever.")
        output.line(f"  → Keep the key too: borg key export --paper {settings.location}")
    return EXIT_DONE


def full_location(text: str) -> str:
    """As seen from here: in the configuration a relative path would start from the file's folder."""
    return text if "://" in text else str(Path(text).expanduser().absolute())


def _list(args: argparse.Namespace, services: Services, output: Output) -> int:
    repositories = services.config.repositories
    if output.json:
        output.document(
            {
                "repositories": [
                    {"name": name, "location": r.location, "encryption": r.encryption}
                    for name, r in repositories.items()
                ]
            }
        )
    output.table(
        ("repository", "location", "encryption"),
        [(name, r.location, r.encryption) for name, r in repositories.items()],
    )
    return EXIT_DONE


def _info(args: argparse.Namespace, services: Services, output: Output) -> int:
    found = [services.repository(name).info() for name in _names(args.name, services)]
    if output.json:
        output.document({"repositories": [_document(info) for info in found]})
    output.table(
        ("repository", "location", "encryption", "points", "guests' bytes", "stored", "last change"),
        [
            (
                info.name,
                info.location,
                info.encryption,
                str(info.archives),
                size(info.original),
                size(info.stored),
                f"{info.last_modified.astimezone():%Y-%m-%d %H:%M}" if info.last_modified else "–",
            )
            for info in found
        ],
        right=("points", "guests' bytes", "stored"),
    )
    return EXIT_DONE


def _check(args: argparse.Namespace, services: Services, output: Output) -> int:
    results: dict[str, list[str]] = {}
    with output.events() as sink:
        for name in _names(args.name, services):
            with services.runner([sink]).run("check", name) as (context, outcome):
                results[name] = services.repository(name).check(verify_data=args.verify_data, context=context)
            for _, error in outcome.errors:
                raise error
    if output.json:
        output.document({"repositories": [{"name": n, "problems": p} for n, p in results.items()]})
    for name, problems in results.items():
        output.line(f"✓ {name}: no problems." if not problems else f"✗ {name}: {len(problems)} problems.")
        for problem in problems:
            output.line(f"  {problem}")
        if problems:
            output.line("  → Read before you repair: borg check --help")
    return EXIT_FAILED if any(results.values()) else EXIT_DONE


def _names(name: str | None, services: Services) -> list[str]:
    if name:
        services.config.repository(name)
        return [name]
    return list(services.config.repositories)


def _document(info: RepositoryInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "location": info.location,
        "id": info.id,
        "encryption": info.encryption,
        "archives": info.archives,
        "original": info.original,
        "stored": info.stored,
        "last_modified": iso(info.last_modified) if info.last_modified else None,
    }
