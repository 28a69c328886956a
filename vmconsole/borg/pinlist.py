"""The list of pinned restore points, which lives in the repository itself: an archive with one small file.

Losing the state must not lose a pin, and nothing else in Borg can be changed without rewriting the archive that
it is about. Of several lists (a writer died before it removed the old one) the newest counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

from vmconsole.errors import RepositoryDamaged

MEMBER = "pins.json"
COMMENT = "vmconsole: the restore points that are pinned"
_NAME = re.compile(r"vmconsole\.pins-\d{8}T\d{12}Z")
_FORMAT = "vmconsole.pins-%Y%m%dT%H%M%S%fZ"


def is_pinlist(archive: str) -> bool:
    """By its name; a guest's archive has eight hex digits where this has `pins`."""
    return _NAME.fullmatch(archive) is not None


def next_name(now: datetime, taken: Collection[str]) -> str:
    """A name newer than all that are taken, also where the clock was set back."""
    newest = max((name for name in taken if is_pinlist(name)), default="")
    name = now.astimezone(UTC).strftime(_FORMAT)
    if name > newest:
        return name
    try:
        last = datetime.strptime(newest, _FORMAT).replace(tzinfo=UTC)
        return (last + timedelta(microseconds=1)).strftime(_FORMAT)
    except (ValueError, OverflowError) as error:
        raise RepositoryDamaged(
            f"There is a list of pinned points with an impossible time: {newest}.",
            hint=f"Delete it with `borg delete REPOSITORY {newest}`, then pin again.",
            subject=newest,
        ) from error


def to_bytes(pins: Mapping[str, str]) -> bytes:
    return json.dumps(dict(sorted(pins.items())), indent=1).encode()


def from_bytes(data: bytes) -> dict[str, str]:
    """Archive name to archive id. Raises ValueError."""
    try:
        document = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise ValueError("not an object of names and ids")
    return document
