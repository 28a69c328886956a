"""What the console changes, it changes by the commands that people type; they can be seen and copied."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

from vmconsole.errors import EXIT_DONE, EXIT_WARNINGS, VmconsoleError
from vmconsole.front.background import begin_run
from vmconsole.front.services import Services


@dataclass(frozen=True, slots=True)
class Command:
    """argv: without `vmconsole`. done: what is said when it worked. runs: it makes a run, which outlives us."""

    argv: tuple[str, ...]
    done: str = ""
    runs: bool = False

    @property
    def text(self) -> str:
        """For people to copy."""
        return shlex.join(("vmconsole", *self.argv))


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended. document: its JSON; run: the id of the run it began. error and hint: as it would tell."""

    command: Command
    code: int
    document: Any = None
    error: str = ""
    hint: str = ""
    run: str = ""

    @property
    def ok(self) -> bool:
        return self.code in (EXIT_DONE, EXIT_WARNINGS)

    @property
    def text(self) -> str:
        return self.command.done


def carry_out(command: Command, services: Services) -> Ended:
    """Run it and wait: for its end, or until its run has begun. Blocks; never raises VmconsoleError."""
    try:
        if command.runs:
            return Ended(command, EXIT_DONE, run=begin_run(list(command.argv), services).id)
        captured = services.capture(["--json", "--quiet", *command.argv])
    except VmconsoleError as error:
        return Ended(command, error.exit_code, error=error.message, hint=error.hint)
    document = _document(captured.out)
    if captured.code in (EXIT_DONE, EXIT_WARNINGS):
        return Ended(command, captured.code, document)
    problem = document if isinstance(document, dict) else {}
    message = str(problem.get("message") or captured.err or "It failed and did not say why.")
    return Ended(command, captured.code, document, message, str(problem.get("hint") or ""))


def _document(text: str) -> Any:
    """The last JSON line, or all of it as one document; None when it is neither."""
    for candidate in (text, text.strip().rpartition("\n")[2]):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    return None
