"""What `backup --dry-run` answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmconsole.errors import EXIT_DONE, EXIT_WARNINGS, VmconsoleError
from vmconsole.front.services import Captured, Services


@dataclass(frozen=True, slots=True)
class Planned:
    """One guest's backup as it would be. bytes: to be read. refused: why it cannot be; the rest is then empty."""

    guest: str
    host: str
    mode: str = ""
    why: str = ""
    bytes: int = 0
    warnings: tuple[str, ...] = ()
    refused: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """problem: why there is no plan, or not of all."""

    guests: tuple[Planned, ...] = ()
    problem: str = ""
    hint: str = ""

    @property
    def bytes(self) -> int:
        return sum(guest.bytes for guest in self.guests)

    @property
    def refused(self) -> int:
        return sum(bool(guest.refused) for guest in self.guests)


def ask_plan(argv: Sequence[str], services: Services) -> Plan:
    """argv: of a backup. Asks hosts and repositories: blocks. Never raises VmconsoleError."""
    words = [argv[0], "--dry-run", *argv[1:]]
    try:
        return plan_of(services.capture(["--json", "--quiet", *words]))
    except VmconsoleError as error:
        return Plan(problem=error.message, hint=error.hint)


def plan_of(captured: Captured) -> Plan:
    """From what the command printed: a document for the plan, and one for each thing that went wrong."""
    guests: tuple[Planned, ...] = ()
    problems: list[tuple[str, str]] = []
    for document in _documents(captured.out):
        if isinstance(document.get("plan"), list):
            guests = tuple(_planned(item) for item in document["plan"] if isinstance(item, dict))
        elif document.get("message"):
            problems.append((str(document["message"]), str(document.get("hint") or "")))
    if not guests and not problems and captured.code not in (EXIT_DONE, EXIT_WARNINGS):
        problems.append((captured.err.strip() or "It failed and did not say why.", ""))
    message = "\n".join(message for message, _ in problems)
    return Plan(guests, message, next((hint for _, hint in problems if hint), ""))


def _documents(text: str) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for candidate in (text, *text.splitlines()):
        try:
            document = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(document, dict):
            found.append(document)
        if candidate is text:
            break
    return found


def _planned(item: Mapping[str, Any]) -> Planned:
    guest, host = str(item.get("guest", "")), str(item.get("host", ""))
    if "error" in item:
        message = str(item.get("message") or item["error"])
        return Planned(guest, host, refused=message, hint=str(item.get("hint") or ""))
    warnings = item.get("warnings")
    expected = item.get("bytes_expected")
    return Planned(
        guest,
        host,
        str(item.get("mode", "")),
        str(item.get("reason") or ""),
        expected if isinstance(expected, int) else 0,
        tuple(str(warning) for warning in warnings) if isinstance(warnings, list) else (),
    )
