"""Check tools, versions, permissions, channels, and what dead runs left on hosts."""

from __future__ import annotations

import argparse

from vmconsole.cli import findings
from vmconsole.cli.findings import Finding
from vmconsole.cli.output import Output
from vmconsole.cli.selection import listed
from vmconsole.errors import EXIT_DONE, EXIT_FAILED, EXIT_WARNINGS
from vmconsole.front.parallel import together
from vmconsole.front.services import Services
from vmconsole.model.guest import Check
from vmconsole.model.run import JournalEntry
from vmconsole.runs.cleanup import clean, dead_entries

HELP = "check everything; remove what killed runs left"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clean", action="store_true", help="remove what killed runs left on hosts")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    found = _look(services, output)
    with output.busy("Cleaning up …"):
        left = clean(services.store, services.hypervisor) if args.clean else []
    remaining = dead_entries(services.store)
    output.document(
        {
            "checks": findings.document(found, "subject"),
            "cleaned": [
                {"host": item.entry.host, "run": item.entry.run, "done": item.done, "detail": item.detail}
                for item in left
            ],
            "leftovers": [
                {"host": entry.host, "run": entry.run, "kind": entry.kind, "payload": entry.payload}
                for entry in remaining
            ],
        }
    )
    findings.show(found, output)
    for item in left:
        glyph = "✓" if item.done else "✗"
        output.line(f"{glyph} {item.entry.host}, run {item.entry.run}: {item.detail}")
    if not args.clean:
        _tell_leftovers(remaining, output)
    return _exit_code(found, failed=args.clean and bool(remaining), left=bool(remaining))


def _look(services: Services, output: Output) -> list[Finding]:
    config = services.config
    with output.busy(f"Asking {listed([*config.hosts, *config.repositories])} …"):
        hosts = together(lambda name: findings.of_host(services, name), config.hosts)
        repositories = together(lambda name: findings.of_repository(services, name), config.repositories)
    here = [Finding("this machine", check) for check in services.checks()]
    if not config.hosts:
        here.append(_none("hosts", "vmconsole host add kvm1 root@kvm1.example"))
    if not config.repositories:
        here.append(_none("repositories", "vmconsole repo init main /srv/backup/vms --passphrase-file FILE"))
    here += findings.of_units(services)
    channels = findings.of_channels(services)
    return [*here, *(finding for each in (*hosts, *repositories, channels) for finding in each)]


def _none(what: str, remedy: str) -> Finding:
    return Finding(
        "this machine", Check(what, ok=False, detail="none configured yet", remedy=remedy, warning=True)
    )


def _tell_leftovers(remaining: list[JournalEntry], output: Output) -> None:
    for entry in remaining:
        guest = entry.payload.get("name", "")
        about = f" of {guest}" if guest else ""
        output.line(f"! {entry.host}: run {entry.run} died and left its {entry.kind}{about} behind.")
    if remaining:
        output.remedy("Remove it with: vmconsole doctor --clean")


def _exit_code(found: list[Finding], *, failed: bool, left: bool) -> int:
    if code := findings.exit_code(found):
        return code
    if failed:
        return EXIT_FAILED
    return EXIT_WARNINGS if left or any(not finding.check.ok for finding in found) else EXIT_DONE
