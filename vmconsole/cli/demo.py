"""A small shop that ships in the package: its host is served over SSH on this machine, its guests
are backed up for two nights into a Borg repository of its own. Needs no root and no QEMU.

The demo removes nothing: delete the folder when you have seen enough.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from vmconsole.cli.format import duration, size
from vmconsole.cli.output import Output
from vmconsole.cli.selection import all_points, reachable_guests, targets
from vmconsole.cli.services import Services
from vmconsole.errors import EXIT_DONE, EXIT_WARNINGS, UsageError
from vmconsole.model.point import RestorePoint

HELP = "try everything on a small shop that ships with vmconsole"
NIGHTS = 2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--headless", action="store_true", help="print a report and exit")
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="folder to work in (default: a new temporary one)"
    )


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    folder = _folder(args.dir)
    output.note(f"A small shop in {folder}: one host, backed up for {NIGHTS} nights.")
    with services.demo(folder) as shop:
        inside = services.at(shop.config_path)
        try:
            repository = inside.config.default_repository()
            inside.repository(repository).create()
            for night in range(1, NIGHTS + 1):
                shop.night(night)
                output.note(f"Night {night}")
                guests, _ = reachable_guests(inside)
                with output.events() as sink:
                    outcome = inside.runner([sink]).backup(
                        targets(inside, guests, None, full=False), f"night {night}"
                    )
                for _, error in outcome.errors:
                    output.error(error)
                if outcome.exit_code not in (EXIT_DONE, EXIT_WARNINGS):
                    return outcome.exit_code
            points = [point for _, point in all_points(inside)]
            report = shop.report(points)
        finally:
            inside.close()
        (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if output.json:
        output.document(report)
    _show(points, folder, output)
    return EXIT_DONE


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
    output.table(
        ("point", "mode", "consistency", "size", "read", "stored", "took"),
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
        right=("size", "read", "stored", "took"),
    )
    config = folder / "config.toml"
    output.line()
    output.line("Everything is an ordinary Borg repository. Try:")
    output.line(f"  vmconsole --config {config} points")
    output.line(f"  vmconsole --config {config} restore {points[0].archive} --to {folder}")
    output.line(f"  BORG_PASSPHRASE=$(cat {folder}/passphrase) borg list {folder}/repository")
