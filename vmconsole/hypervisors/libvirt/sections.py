"""Many answers in one remote command, told apart by a random token.

Guests' owners control parts of what a host prints (names, metadata, file names). A token that is
drawn for each command cannot be forged, so no guest can end its own section and begin another's.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from vmconsole.errors import ProtocolError
from vmconsole.remote.machine import Machine

PROLOGUE = r"""
t=$1; shift
# part LABEL COMMAND…: run it, print a section: its output, its status, its errors
part() {
    label=$1; shift
    printf '\n%s begin %s\n' "$t" "$label"
    { errors=$(timeout 40 "$@" 2>&1 1>&3 3>&- </dev/null); status=$?; } 3>&1
    printf '\n%s end %s\n%.4000s\n%s done\n' "$t" "$status" "$errors" "$t"
}
"""


@dataclass(frozen=True, slots=True)
class Section:
    """What one command of a script said. status 124: it took too long."""

    text: str
    status: int
    errors: str

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def lines(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.strip()]


MISSING = Section("", 1, "no answer")


def collect(
    machine: Machine, body: str, args: Sequence[str] = (), *, timeout: float = 120.0, token: str = ""
) -> dict[str, Section]:
    """Run PROLOGUE and body on the machine; the sections by label. A later label replaces an earlier one.

    Raises what Machine.script raises, and ProtocolError when no section arrived.
    """
    token = token or secrets.token_hex(16)
    done = machine.script(PROLOGUE + body, [token, *args], timeout=timeout, check=False)
    found = split(done.text, token)
    if not found:
        raise ProtocolError(
            f"{machine.name} did not answer a shell script as expected: {done.errors[:200] or 'no output'}.",
            hint=f"Does `ssh {machine.name} sh -c 'echo hello'` print hello and nothing else?",
            subject=machine.name,
        )
    return found


def split(text: str, token: str) -> dict[str, Section]:
    """Cut a script's output into its sections; what stands outside of them is ignored."""
    mark = re.escape(token)
    pattern = re.compile(
        rf"^{mark} begin (?P<label>.*)\n(?P<text>(?s:.*?))\n?{mark} end (?P<status>\d{{1,3}})\n"
        rf"(?P<errors>(?s:.*?))\n?{mark} done$",
        re.MULTILINE,
    )
    return {
        match["label"]: Section(match["text"], int(match["status"]), match["errors"].strip())
        for match in pattern.finditer(text)
    }
