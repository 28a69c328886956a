"""What `host check` and `doctor` find out: checks of this machine, of hosts, of repositories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vmconsole.cli.output import Output
from vmconsole.cli.unit_files import outdated
from vmconsole.errors import EXIT_DONE, EXIT_FAILED, VmconsoleError
from vmconsole.front.parallel import together
from vmconsole.front.services import Services
from vmconsole.front.shop import shop_of
from vmconsole.model.alert import AlertKind
from vmconsole.model.guest import Check


@dataclass(frozen=True, slots=True)
class Finding:
    """exit_code: what the command ends with when nothing else is wrong."""

    subject: str
    check: Check
    exit_code: int = EXIT_FAILED

    @property
    def failed(self) -> bool:
        return not self.check.ok and not self.check.warning


def of_host(services: Services, host: str) -> list[Finding]:
    """A host's own checks; one that cannot be reached is a failed check."""
    try:
        return [Finding(host, check) for check in services.hypervisor(host).check()]
    except VmconsoleError as error:
        check = Check("connection", ok=False, detail=error.message, remedy=error.hint)
        return [Finding(host, check, error.exit_code)]


def of_repository(services: Services, name: str) -> list[Finding]:
    try:
        info = services.repository(name).info()
    except VmconsoleError as error:
        check = Check("repository", ok=False, detail=error.message, remedy=error.hint)
        return [Finding(name, check, error.exit_code)]
    count = f"{info.archives} restore point{'' if info.archives == 1 else 's'}"
    return [Finding(name, Check("repository", ok=True, detail=f"{info.location}, {count}"))]


def of_channels(services: Services) -> list[Finding]:
    """Whether alerts would arrive: what is known without sending, and what came of the last time."""
    teller = shop_of(services).teller
    broken = {alert.key: alert for alert in services.alerts.holding() if alert.kind is AlertKind.CHANNEL}
    looked = {delivery.channel: delivery for delivery in together(lambda c: c.check(), teller.channels)}
    found = []
    for name in teller.ways:
        check = looked.get(name)
        if check is not None and not check.ok:
            found.append(Check(name, ok=False, detail=check.problem, remedy=check.hint))
        elif name in broken:
            found.append(Check(name, ok=False, detail=broken[name].text, remedy=broken[name].hint))
        else:
            found.append(Check(name, ok=True))
    return [Finding("alerts", check) for check in found]


def of_units(services: Services) -> list[Finding]:
    """systemd units that the configuration has outgrown; nothing where there are none, or all are as they should be."""
    try:
        left_behind = outdated(services.config)
    except VmconsoleError as error:
        check = Check("systemd", ok=False, detail=error.message, remedy=error.hint)
        return [Finding("this machine", check, error.exit_code)]
    return [
        Finding(
            "this machine",
            Check(
                "systemd",
                ok=False,
                detail=f"{path} is from before the configuration was changed; the service lacks what came since",
                remedy=f"Renew it: {command}",
                warning=True,
            ),
        )
        for path, command in left_behind
    ]


def show(findings: Sequence[Finding], output: Output) -> None:
    for finding in findings:
        check = finding.check
        glyph = "✓" if check.ok else "!" if check.warning else "✗"
        output.line(
            f"{glyph} {finding.subject}: {check.name}" + (f" – {check.detail}" if check.detail else "")
        )
        if not check.ok and check.remedy:
            output.remedy(check.remedy)


def document(findings: Sequence[Finding], subject: str) -> list[dict[str, Any]]:
    """subject: the key under which each finding says what it is about."""
    return [
        {
            subject: finding.subject,
            "name": finding.check.name,
            "ok": finding.check.ok,
            "warning": finding.check.warning,
            "detail": finding.check.detail,
            "remedy": finding.check.remedy or None,
        }
        for finding in findings
    ]


def exit_code(findings: Sequence[Finding]) -> int:
    """The code that all failures share, else that of a failure."""
    codes = {finding.exit_code for finding in findings if finding.failed}
    if not codes:
        return EXIT_DONE
    return codes.pop() if len(codes) == 1 else EXIT_FAILED
