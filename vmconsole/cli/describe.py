"""Events as lines of text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from vmconsole.cli.format import duration, size, visible, visible_lines
from vmconsole.events import (
    Event,
    GuestFailed,
    GuestPlanned,
    PointMade,
    Restored,
    Waiting,
    Warned,
)


def describe(event: Event) -> str:
    """An event as text safe for a terminal, or nothing."""
    return _describe(_made_safe(event))


def _describe(event: Event) -> str:
    if isinstance(event, GuestPlanned):
        why = f" ({event.reason})" if event.reason else ""
        return (
            f"▶ {event.guest} on {event.host}: {event.mode}{why}, about {size(event.bytes_expected)} to read"
        )
    if isinstance(event, PointMade):
        return (
            f"✓ {event.guest}: {event.mode}, {event.consistency} consistent, read {size(event.bytes_read)}, "
            f"stored {size(event.bytes_stored)}, {duration(event.seconds)} → {event.archive}"
        )
    if isinstance(event, GuestFailed):
        return f"✗ {event.guest}: {event.message}" + (f"\n  → {event.hint}" if event.hint else "")
    if isinstance(event, Warned):
        return f"! {event.subject}: {event.message}" + (f"\n  → {event.hint}" if event.hint else "")
    if isinstance(event, Waiting):
        return f"… waiting for {event.subject}: {event.reason}"
    if isinstance(event, Restored):
        return f"✓ {event.archive} → {event.target}, {size(event.bytes_written)}, {duration(event.seconds)}"
    return ""


def describe_stored(document: dict[str, Any]) -> str:
    """A stored event as a line of `runs RUN`."""
    known = {kind.kind: kind for kind in (GuestPlanned, PointMade, GuestFailed, Warned, Waiting, Restored)}
    kind = str(document.get("event", ""))
    values = {key: value for key, value in document.items() if key != "event"}
    if kind in known:
        try:
            return describe(known[kind](**values))
        except TypeError:
            return json.dumps(document, ensure_ascii=False)
    steps: dict[str, Callable[[], str]] = {
        "step_finished": lambda: f"  {visible(values['guest'])}: {values['step']} {values['seconds']:.2f} s",
        "run_started": lambda: f"{values['what']} {visible(values['subject'])}",
        "run_finished": lambda: f"{values['state']} after {duration(values['seconds'])}",
    }
    try:
        return steps[kind]() if kind in steps else ""
    except (KeyError, TypeError, ValueError):
        return json.dumps(document, ensure_ascii=False)


def _made_safe(event: Event) -> Event:
    """Names come from guests and hosts and must not forge lines; only our own messages have several."""
    strings = {
        field.name: visible_lines(value) if field.name in ("message", "hint") else visible(value)
        for field in fields(event)
        if isinstance(value := getattr(event, field.name), str)
    }
    return replace(event, **strings)
