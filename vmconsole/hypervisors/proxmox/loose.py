"""JSON as Perl makes it: true is 1 or "1", numbers come as strings, and nothing is no output at all."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from vmconsole.errors import ProtocolError

Record = dict[str, Any]


def parse_json(text: str) -> Any:
    """The document; None for no output. Lines that something else printed around it are passed over.

    Raises ProtocolError.
    """
    if not text.strip():
        return None
    try:
        return _loads(text)
    except (ValueError, RecursionError):
        pass
    # pvesh prints its answer in one line; of what can be read, an object or list is the answer.
    scalar: list[Any] = []
    for line in reversed(text.splitlines()):
        try:
            found = _loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, (dict, list)):
            return found
        scalar.append(found)
    if scalar:
        return scalar[0]
    shown = "".join(c if c.isprintable() else " " for c in text.strip()[:120])
    raise ProtocolError(f"This should be JSON, but is not: {shown}")


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_no_number)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def number(value: Any) -> float | None:
    """A finite number, also from a string; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def integer(value: Any, default: int = 0) -> int:
    """A whole number, also from a string or a float without fraction; else the default."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,20}\s*", value):
        return int(value)
    found = number(value)
    return int(found) if found is not None and found.is_integer() else default


def flag(value: Any, *, default: bool = False) -> bool:
    """1, "1", true, "yes" … and their opposites; what is missing is the default."""
    if value is None:
        return default
    if isinstance(value, str):
        return value.strip().lower() not in ("", "0", "no", "off", "false")
    return bool(value)


def word(value: Any) -> str:
    """A string, also from a number; empty for anything else. Never holds half a character."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return str(value).encode("utf-8", "replace").decode()


def records(value: Any) -> list[Record]:
    """The objects of a list; what is none of either is left out."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def record(value: Any) -> Record:
    return value if isinstance(value, dict) else {}
