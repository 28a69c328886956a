"""Borg repositories.

  vmconsole repo init main /srv/backup/vms --passphrase-file FILE
  vmconsole repo init main /srv/backup/vms --passphrase-file FILE --existing
  vmconsole repo check main --verify-data
  vmconsole repo compact --dry-run
  vmconsole repo compact

--existing takes over a repository that is there already, on a new backup
server for example. compact deletes what was pruned longer ago than `undo` in
the configuration, and frees its space; it does nothing when restore points
vanished that vmconsole did not delete, until accept says that this is all
right.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from vmconsole.cli import compact
from vmconsole.cli.format import size
from vmconsole.cli.output import Output
from vmconsole.cli.prune import repositories
from vmconsole.cli.table import Column
from vmconsole.errors import EXIT_DONE, EXIT_FAILED, RepositoryDamaged, RepositoryError, UsageError
from vmconsole.events import Warned
from vmconsole.front import changing
from vmconsole.front.services import Services
from vmconsole.interfaces import RepositoryInfo
from vmconsole.model.point import iso

HELP = "make, list, inspect, check and compact repositories"
_NONE = "No repository yet. Make one: vmconsole repo init main /srv/backup/vms --passphrase-file FILE"


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    init = verbs.add_parser(
        "init",
        help="make a repository; with a location, add it to the configuration first",
        usage="%(prog)s [OPTIONS] NAME [LOCATION]",
    )
    init.add_argument("name", metavar="NAME")
    init.add_argument(
        "location", nargs="?", metavar="LOCATION", help="a folder, or ssh://user@host:port/path"
    )
    init.add_argument("--encryption", metavar="MODE", help="default: repokey-blake2")
    init.add_argument("--existing", action="store_true", help="it is there already: open it, make nothing")
    secret = init.add_mutually_exclusive_group()
    secret.add_argument("--passphrase-file", metavar="FILE", help="file that holds the passphrase, mode 0600")
    secret.add_argument(
        "--passphrase-command", metavar="COMMAND", help="program (with arguments) that prints it"
    )
    secret.add_argument("--passphrase-env", metavar="NAME", help="environment variable that holds it")
    secret.add_argument("--passphrase-credential", metavar="NAME", help="systemd credential that holds it")
    secret.add_argument("--passphrase-keyring", metavar="SERVICE/USER", help="keyring entry that holds it")
    verbs.add_parser("list", help="list repositories")
    info = verbs.add_parser("info", help="sizes and settings")
    info.add_argument("name", metavar="NAME", nargs="?", help="default: all")
    check = verbs.add_parser("check", help="check consistency with stock borg")
    check.add_argument("name", metavar="NAME", nargs="?", help="default: all")
    check.add_argument("--verify-data", action="store_true", help="read and verify every chunk (slow)")
    space = verbs.add_parser("compact", help="delete what was pruned, and free its space")
    space.add_argument("name", metavar="NAME", nargs="?", help="default: all")
    space.add_argument("--now", action="store_true", help="also what was pruned just now")
    space.add_argument("--dry-run", "-n", action="store_true", help="say what would be deleted")
    accept = verbs.add_parser("accept", help="points that vanished may be gone: compact again")
    accept.add_argument("name", metavar="NAME", nargs="?", help="default: all")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    actions = {
        "init": _init,
        "list": _list,
        "info": _info,
        "check": _check,
        "compact": compact.compact,
        "accept": compact.accept,
    }
    return actions[args.action](args, services, output)


def _init(args: argparse.Namespace, services: Services, output: Output) -> int:
    passphrase = _passphrase(args)
    if not args.location and (args.encryption or passphrase):
        raise UsageError(
            "--encryption and --passphrase-… go with a location.",
            hint=f"As in: vmconsole repo init {args.name} /srv/backup/vms --passphrase-file FILE",
        )
    if args.location:
        values: dict[str, object] = {"location": full_location(args.location)}
        if args.encryption:
            values["encryption"] = args.encryption
        if passphrase:
            values["passphrase"] = passphrase
        changing.add(services, "repositories", args.name, values)
    try:
        made = open_or_make(args.name, services, output, existing=args.existing)
    except BaseException:
        if args.location:
            changing.remove(services, "repositories", args.name)
        raise
    settings = services.config.repository(args.name)
    output.document(
        {
            "name": args.name,
            "id": made,
            "location": settings.location,
            "encryption": settings.encryption,
            "existing": args.existing,
        }
    )
    if args.existing:
        output.line(f"✓ Repository {args.name} at {settings.location} opens.")
        output.hint("See what it holds: vmconsole points")
        return EXIT_DONE
    output.line(f"✓ Repository {args.name} was made at {settings.location} ({settings.encryption}).")
    if settings.encryption != "none":
        output.hint("Keep the passphrase in a second place: without it nobody can restore, ever.")
        output.hint(f"Keep the key too: borg key export --paper {shlex.quote(settings.location)}")
    return EXIT_DONE


def open_or_make(name: str, services: Services, output: Output, *, existing: bool) -> str:
    """Make the repository, or open the one that is there; returns its id. Raises RepositoryError."""
    repository = services.repository(name)
    location = services.config.repository(name).location
    if existing:
        with output.busy(f"Opening {location} …"), repository.reader() as reader:
            reader.points()
        return repository.id()
    if "://" not in location and Path(location, "config").is_file() and Path(location, "data").is_dir():
        raise RepositoryError(
            f"There is a repository at {location} already; it stays as it is.",
            hint=f"Take it over: vmconsole repo init {name} {shlex.quote(location)} --existing "
            "--passphrase-file FILE",
            subject=name,
        )
    with output.busy(f"Making {location} …"):
        return repository.create()


def _passphrase(args: argparse.Namespace) -> dict[str, object]:
    """Where the configuration will look for it."""
    if args.passphrase_file:
        return {"file": full_location(args.passphrase_file)}
    if args.passphrase_command:
        try:
            return {"command": shlex.split(args.passphrase_command)}
        except ValueError as error:
            raise UsageError(
                f"--passphrase-command {args.passphrase_command!r} cannot be split into words: {error}.",
                hint="Quote it as one word for the shell, as in: --passphrase-command 'pass show borg'",
            ) from error
    for source in ("env", "credential", "keyring"):
        if given := getattr(args, f"passphrase_{source}"):
            return {source: given}
    return {}


def full_location(text: str) -> str:
    """As seen from here: in the configuration a relative path would start from the file's folder."""
    return text if "://" in text else str(Path(text).expanduser().absolute())


def _list(args: argparse.Namespace, services: Services, output: Output) -> int:
    repositories = services.config.repositories
    output.document(
        {
            "repositories": [
                {"name": name, "location": r.location, "encryption": r.encryption}
                for name, r in repositories.items()
            ]
        }
    )
    if not repositories:
        output.note(_NONE)
        return EXIT_DONE
    output.table(
        (Column("repository"), Column("location", least=20), Column("encryption", drop=1)),
        [(name, r.location, r.encryption) for name, r in repositories.items()],
    )
    return EXIT_DONE


def _info(args: argparse.Namespace, services: Services, output: Output) -> int:
    found = []
    for name in repositories(args.name, services):
        with output.busy(f"Asking repository {name} …"):
            found.append(services.repository(name).info())
    output.document({"repositories": [_document(info) for info in found]})
    columns = (
        Column("repository"),
        Column("location", least=20),
        Column("encryption", drop=3),
        Column("points", right=True),
        Column("guests' bytes", right=True, drop=2),
        Column("stored", right=True),
        Column("last change", drop=1),
    )
    output.table(
        columns,
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
    )
    return EXIT_DONE


def _check(args: argparse.Namespace, services: Services, output: Output) -> int:
    results: dict[str, list[str]] = {}
    for name in repositories(args.name, services):
        with (
            output.events(services) as watcher,
            services.runner([watcher]).run("check", name) as (context, outcome),
        ):
            problems = services.repository(name).check(verify_data=args.verify_data, context=context)
            results[name] = problems
            for problem in problems:
                context.events(Warned(context.run, name, problem))
            if problems:
                # Whoever did not watch finds it with the run.
                outcome.errors.append((name, RepositoryDamaged(_found(problems), subject=name)))
        for _, error in outcome.errors:
            if name not in results:
                raise error
    output.document({"repositories": [{"name": n, "problems": p} for n, p in results.items()]})
    for name, problems in results.items():
        output.line(f"✗ {name}: {_count(problems)}." if problems else f"✓ {name}: no problems.")
        if problems:
            output.remedy("Read before you repair: borg check --help")
    return EXIT_FAILED if any(results.values()) else EXIT_DONE


def _count(problems: Sequence[str]) -> str:
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"


def _found(problems: Sequence[str]) -> str:
    return f"borg check found {_count(problems)}; the first: {problems[0]}"


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
