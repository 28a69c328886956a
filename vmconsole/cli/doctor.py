"""Check tools, versions, permissions, and what killed runs left on hosts; --clean removes the latter."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vmconsole.cli.output import Output
from vmconsole.cli.services import Services
from vmconsole.errors import EXIT_DONE, EXIT_FAILED, EXIT_WARNINGS, VmconsoleError
from vmconsole.model.guest import Check
from vmconsole.runs.cleanup import clean, dead_entries

HELP = "check everything; remove what killed runs left"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clean", action="store_true", help="remove what killed runs left on hosts")


def run(args: argparse.Namespace, services: Services, output: Output) -> int:
    checks: list[tuple[str, Check]] = [("this machine", check) for check in services.checks()]
    for name in services.config.hosts:
        checks += [(name, check) for check in host_checks(services, name)]
    for name in services.config.repositories:
        checks.append((name, _repository_check(services, name)))
    left = clean(services.store, services.hypervisor) if args.clean else []
    remaining = dead_entries(services.store)
    if output.json:
        output.document(
            {
                "checks": [
                    {
                        "subject": subject,
                        "name": check.name,
                        "ok": check.ok,
                        "warning": check.warning,
                        "detail": check.detail,
                        "remedy": check.remedy or None,
                    }
                    for subject, check in checks
                ],
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
    show_checks(checks, output)
    for item in left:
        glyph = "✓" if item.done else "✗"
        output.line(f"{glyph} {item.entry.host}, run {item.entry.run}: {item.detail}")
    if remaining:
        output.line(f"! {len(remaining)} things that dead runs acquired on hosts are not released.")
        if not args.clean:
            output.line("  → Remove them with: vmconsole doctor --clean")
    return _exit_code([check for _, check in checks], bool(remaining))


def host_checks(services: Services, host: str) -> Sequence[Check]:
    """A host's own checks; one that cannot be reached is a failed check."""
    try:
        return services.hypervisor(host).check()
    except VmconsoleError as error:
        return [Check("connection", ok=False, detail=error.message, remedy=error.hint)]


def show_checks(checks: Sequence[tuple[str, Check]], output: Output) -> None:
    for subject, check in checks:
        glyph = "✓" if check.ok else "!" if check.warning else "✗"
        output.line(f"{glyph} {subject}: {check.name}" + (f": {check.detail}" if check.detail else ""))
        if not check.ok and check.remedy:
            output.line(f"  → {check.remedy}")


def _repository_check(services: Services, name: str) -> Check:
    try:
        info = services.repository(name).info()
    except VmconsoleError as error:
        return Check("repository", ok=False, detail=error.message, remedy=error.hint)
    return Check("repository", ok=True, detail=f"{info.location}, {info.archives} restore points")


def _exit_code(checks: Sequence[Check], leftovers: bool) -> int:
    if any(not check.ok and not check.warning for check in checks):
        return EXIT_FAILED
    return EXIT_WARNINGS if leftovers or any(not check.ok for check in checks) else EXIT_DONE
