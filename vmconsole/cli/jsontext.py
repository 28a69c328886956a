"""JSON for pipes and terminals alike: what a terminal could obey, or hide, is written as an escape."""

from __future__ import annotations

import json
import re
from typing import Any

from vmconsole.cli.format import visible

# Only inside strings can these occur; json.dumps has escaped U+0000 to U+001F there already.
_SUSPECT = re.compile(r"[^\x20-\x7e\n]")


def json_text(value: Any, *, indent: int | None = None, encoding: str = "utf-8") -> str:
    """The document as text that any JSON parser reads back as the same value.

    encoding: of the stream it goes to; anything but UTF-8 gets pure ASCII.
    """
    text = json.dumps(value, ensure_ascii=not _is_utf8(encoding), indent=indent)
    return text if text.isascii() and "\x7f" not in text else _SUSPECT.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    letter = match[0]
    if visible(letter) == letter:
        return letter
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _is_utf8(encoding: str) -> bool:
    return encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")
