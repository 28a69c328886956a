"""A small shop that ships in the package: its hosts, a KVM host and a Proxmox
cluster of two nodes, are served over SSH on this machine, their guests are
backed up for two nights into a Borg repository of its own. Needs no root and
no QEMU.

On a terminal the console then opens on it, and the hosts stay up until it is
left; commands work from another terminal meanwhile. The demo removes nothing:
delete the folder when you have seen enough.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from vmconsole.cli.format import duration, size
from vmconsole.cli.output import Output
from vmconsole.cli.selection import all_points, reachable_guests, targets
from vmconsole.cli.table import Column
from vmconsole.errors import EXIT_DONE, EXIT_WARNINGS, UsageError
from vmconsole.front.services import DemoShop, Services
from vmconsole.model.point import RestorePoint

HELP = "try everything on a small shop that ships with vmconsole"
NIGHTS = 2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--headless", action="store_true", help="print a report and exit, also on a terminal")
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="folder to work in (default: a new temporary one)"
    )


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    folder = _folder(args.dir)
    output.note(f"A small shop in {folder}: a KVM host and a Proxmox cluster, {NIGHTS} nights.")
    with ExitStack() as stack:
        with output.busy("Opening the shop …"):
            shop = stack.enter_context(services.demo(folder))
        inside = services.at(shop.config_path)
        stack.callback(inside.close)
        inside.repository(inside.config.default_repository()).create()
        for night in range(1, NIGHTS + 1):
            if code := _night(night, shop, inside, output):
                return code
        points = [point for _, point in all_points(inside, output)]
        with output.busy("Comparing with what the hosts had at each cut …"):
            report = shop.report(points)
        (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        output.document(report)
        _show(points, folder, output)
        if not args.headless and not output.json and output.can_ask and output.on_screen:
            _stay(args, inside, output)
            output.line(f"The demo has ended; its folder stays: {folder}")
            return EXIT_DONE
    output.line()
    output.line("The demo's hosts are gone again: points, restore --to, repo and runs work; backup does not.")
    return EXIT_DONE


def _night(night: int, shop: DemoShop, inside: Services, output: Output) -> int:
    """Back everything up once; the exit code when that failed, else 0."""
    with output.busy(f"The day before night {night} …"):
        shop.night(night)
    output.note(f"Night {night}", style="bold")
    guests, _ = reachable_guests(inside, output)
    with output.events(inside, guests=len(guests)) as watcher:
        outcome = inside.runner([watcher]).backup(targets(inside, guests, None, full=False), f"night {night}")
    for _, error in outcome.errors:
        if error.message not in watcher.told:
            output.error(error)
    return EXIT_DONE if outcome.exit_code in (EXIT_DONE, EXIT_WARNINGS) else outcome.exit_code


def _folder(wanted: Path | None) -> Path:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="vmconsole-demo-"))
    folder = wanted.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} is not an empty folder.",
            hint="Name a new one; the demo never overwrites.",
            subject=str(folder),
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _show(points: list[RestorePoint], folder: Path, output: Output) -> None:
    columns = (
        Column("point"),
        Column("mode"),
        Column("consistency", drop=3),
        Column("size", right=True, drop=2),
        Column("read", right=True),
        Column("stored", right=True),
        Column("took", right=True, drop=1),
    )
    output.line()
    output.table(
        columns,
        [
            (
                point.archive,
                point.mode.value,
                point.consistency.value,
                size(point.size),
                size(point.total("bytes_read")),
                size(point.total("bytes_stored")),
                duration(point.seconds),
            )
            for point in reversed(points)
        ],
    )
    place = shlex.quote(str(folder))
    output.line()
    output.line("Every point is an ordinary Borg archive, and whole. Try:")
    if (programs := _programs()) is not None:
        output.line(f"  export PATH={shlex.quote(str(programs))}:$PATH")
    output.line(f"  export VMCONSOLE_CONFIG={place}/config.toml")
    output.line("  vmconsole points")
    output.line(f"  vmconsole restore web-01@latest --to {place}/restored/")
    output.line(f"  BORG_PASSCOMMAND='cat {place}/passphrase' borg list {place}/repository")


def _programs() -> Path | None:
    """The folder with our programs, unless the shell finds them there already."""
    ours = Path(sys.executable).with_name("vmconsole")
    found = shutil.which("vmconsole")
    if not ours.exists() or (found is not None and Path(found).resolve() == ours.resolve()):
        return None
    return ours.parent


def _stay(args: argparse.Namespace, inside: Services, output: Output) -> None:
    """The console on the shop, whose hosts stay up for it: a newcomer wants to try backups as well."""
    output.line()
    with suppress(KeyboardInterrupt):
        output.prompt("Enter opens the console on this shop. Leaving it (q) ends the demo.", end=" ")
        if args.open_console is not None:
            args.open_console(inside, args)
