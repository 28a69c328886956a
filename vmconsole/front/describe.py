"""Events as lines of text, and stored events as events again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from vmconsole.events import (
    Compacted,
    CutTogether,
    Deleted,
    DiskProgress,
    Event,
    GuestFailed,
    GuestPlanned,
    GuestPostponed,
    PointMade,
    Pruned,
    Restored,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
    Throttled,
    Unpruned,
    Waiting,
    Warned,
)
from vmconsole.model.words import duration, size, visible, visible_lines

_KINDS: Mapping[str, type[Event]] = {
    kind.kind: kind
    for kind in (
        Compacted,
        CutTogether,
        Deleted,
        DiskProgress,
        GuestFailed,
        GuestPlanned,
        GuestPostponed,
        PointMade,
        Pruned,
        Restored,
        RunFinished,
        RunStarted,
        StepFinished,
        StepStarted,
        Throttled,
        Unpruned,
        Waiting,
        Warned,
    )
}
_INDENTED = {"message": 2, "hint": 4}
_CONSISTENCY = {"application": "application-consistent", "crash": "crash-consistent", "offline": "guest off"}


def describe(event: Event) -> str:
    """What a watcher is told of an event, safe for a terminal; nothing for steps and progress."""
    return _describe(_made_safe(event))


def describe_in_full(event: Event) -> str:
    """As describe(), with the steps and how long they took: the log of a run."""
    safe = _made_safe(event)
    match safe:
        case RunStarted():
            return f"{safe.what} {safe.subject}"
        case StepFinished():
            return f"  {safe.guest}: {safe.step} {duration(safe.seconds)}"
        case RunFinished():
            return f"{safe.state} after {duration(safe.seconds)}"
    return _describe(safe)


def event_from(document: Mapping[str, Any]) -> Event | None:
    """A stored event; None for what this version does not know."""
    kind = _KINDS.get(str(document.get("event", "")))
    if kind is None:
        return None
    values = {field.name: document.get(field.name, "") for field in fields(kind)}
    try:
        event = kind(**values)
        describe_in_full(event)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return event


def unknown(document: Mapping[str, Any]) -> str:
    """A stored event that this version cannot tell in its own words."""
    return visible(json.dumps(document, ensure_ascii=False, default=str))


def _describe(event: Event) -> str:
    match event:
        case GuestPlanned():
            why = f" ({event.reason})" if event.reason else ""
            return (
                f"▶ {event.guest} on {event.host}: {event.mode}{why}, "
                f"about {size(event.bytes_expected)} to read"
            )
        case PointMade():
            return (
                f"✓ {event.guest}: {event.mode}, {_CONSISTENCY.get(event.consistency, event.consistency)}, "
                f"read {size(event.bytes_read)}, stored {size(event.bytes_stored)} in "
                f"{duration(event.seconds)} → {event.archive}"
            )
        case GuestFailed():
            return f"✗ {event.guest}: {event.message}" + _hint(event.hint)
        case GuestPostponed():
            when = f" at {datetime.fromisoformat(event.until).astimezone():%H:%M}" if event.until else ""
            return f"… {event.guest}: {event.message} It is tried again{when}."
        case CutTogether():
            names = ", ".join(event.guests)
            return f"✓ {names}: cut together, within {event.skew_ms:g} ms"
        case Warned():
            return f"! {event.subject}: {event.message}" + _hint(event.hint)
        case Waiting():
            return f"… waiting for {event.subject}: {event.reason}"
        case Throttled():
            return f"… {held(event)}"
        case Restored():
            return (
                f"✓ {event.archive}: {size(event.bytes_written)} of data in {duration(event.seconds)} "
                f"→ {event.target}"
            )
        case Pruned():
            return f"✓ {event.guest}: {points_text(len(event.archives))} pruned in {event.repository}"
        case Unpruned():
            kept = "is kept again" if len(event.archives) == 1 else "are kept again"
            return f"✓ {event.guest}: {points_text(len(event.archives))} {kept} in {event.repository}"
        case Deleted():
            return f"✓ {event.repository}: {points_text(len(event.archives))} deleted"
        case Compacted():
            freed = "" if event.bytes_freed is None else f", about {size(event.bytes_freed)} freed"
            return f"✓ {event.repository}: compacted in {duration(event.seconds)}{freed}"
    return ""


def points_text(count: int) -> str:
    return "1 point" if count == 1 else f"{count} points"


def held(event: Throttled) -> str:
    """How fast a host is read, and why. The caller makes it safe."""
    if not event.rate:
        return f"{event.host}: {event.reason}"
    return f"{event.host} held to {size(event.rate)}/s: {event.reason}"


def indented(message: str, by: int = 2) -> str:
    """Our own message of several lines, made safe. All but the first are indented: a name or an answer
    with line feeds in it cannot look like a line of ours.
    """
    return visible_lines(message).replace("\n", "\n" + " " * by)


def _hint(hint: str) -> str:
    return f"\n  → {hint}" if hint else ""


def _made_safe(event: Event) -> Event:
    """Names come from guests and hosts and must not forge lines; only our own messages have several."""
    strings = {
        field.name: indented(value, _INDENTED[field.name]) if field.name in _INDENTED else visible(value)
        for field in fields(event)
        if isinstance(value := getattr(event, field.name), str)
    }
    return replace(event, **strings)
