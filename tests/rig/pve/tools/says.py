"""How the programs end, and what they know about the node they run on."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SETTINGS = Path("/run/pve-rig.json")
FAULTS = Path("/run/pve-rig.faults")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)")
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


class Died(Exception):
    """perl's die: the words go to stderr."""

    def __init__(self, words: str, status: int = 255) -> None:
        super().__init__(words)
        self.status = status


def settings() -> dict[str, Any]:
    """node, url, ticket, csrf, ca."""
    return dict(json.loads(SETTINGS.read_text()))


def node_name() -> str:
    return str(settings()["node"])


def meet_fault(command: str) -> None:
    """What a test wants to happen to this command (PveNode.fault): it takes longer, or fails."""
    if not FAULTS.exists():
        return
    for fault in json.loads(FAULTS.read_text()):
        if re.search(fault["match"], command):
            time.sleep(fault["delay"])
            if fault["message"]:
                raise Died(fault["message"], fault["status"])


@dataclass
class Words:
    """A command line taken apart. values: option → the last value; a flag's is "1"."""

    plain: list[str] = field(default_factory=list)
    values: dict[str, list[str]] = field(default_factory=dict)

    def get(self, name: str, default: str = "") -> str:
        return self.values[name][-1] if name in self.values else default

    def on(self, name: str) -> bool:
        return self.get(name) in {"1", "yes", "on", "true"}

    def only(self, *known: str) -> None:
        """Die of an option that the program does not have, as Getopt::Long does."""
        for name in self.values:
            if name not in known:
                raise Died(f"Unknown option: {name}\n400 unable to parse option")

    def vmid(self, at: int = 0) -> int:
        if len(self.plain) <= at or not re.fullmatch(r"[1-9]\d{2,8}", self.plain[at]):
            raise Died("400 Parameter verification failed.\nvmid: type check ('integer') failed")
        return int(self.plain[at])


def words(argv: Sequence[str], flags: Sequence[str] = ()) -> Words:
    """--name value, --name=value and -name value are one; `flags` need no value; `-` alone is a word."""
    found = Words()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            found.plain.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not equals:
            value = rest.pop(0) if rest and _is_value(rest[0], flag=name in flags) else "1"
        found.values.setdefault(name, []).append(value)
    return found


def _is_value(word: str, *, flag: bool) -> bool:
    return word in {"0", "1"} if flag else word == "-" or not word.startswith("-")


def parse_size(text: str, unit: str = "") -> int:
    """Bytes; `unit` is what a bare number counts in."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Died(f"unable to parse size '{text}'")
    return int(float(match[1]) * 1024 ** _UNITS[match[2] or unit])


def print_size(size: int) -> str:
    """The largest unit that divides it, as in a guest's configuration."""
    for unit in "TGMK":
        if size and size % 1024 ** _UNITS[unit] == 0:
            return f"{size // 1024 ** _UNITS[unit]}{unit}"
    return str(size)
