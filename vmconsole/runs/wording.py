"""Alerts as a message that is read on a telephone at night: what, how many, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, tzinfo

from vmconsole.model.alert import Alert, AlertKind
from vmconsole.model.history import BackupRecord
from vmconsole.model.message import Message, Tone
from vmconsole.model.words import duration, size, visible

SINGLY = 5
"""So many of a kind are listed; the rest are counted."""

_BAD = {AlertKind.FAILURE, AlertKind.OVERDUE, AlertKind.REPOSITORY, AlertKind.VANISHED}
_ORDER = (
    AlertKind.FAILURE,
    AlertKind.OVERDUE,
    AlertKind.VANISHED,
    AlertKind.REPOSITORY,
    AlertKind.WARNING,
    AlertKind.UNPROTECTED,
    AlertKind.CHANNEL,
)
_COUNTED = {
    AlertKind.FAILURE: ("1 backup failed", "{} backups failed"),
    AlertKind.OVERDUE: ("1 guest overdue", "{} guests overdue"),
    AlertKind.VANISHED: ("restore points vanished", "restore points vanished"),
    AlertKind.REPOSITORY: ("1 repository problem", "{} repository problems"),
    AlertKind.WARNING: ("1 backup with warnings", "{} backups with warnings"),
    AlertKind.UNPROTECTED: ("1 guest unprotected", "{} guests unprotected"),
    AlertKind.CHANNEL: ("1 channel does not work", "{} channels do not work"),
}


def counted(kind: AlertKind, count: int) -> str:
    one, many = _COUNTED[kind]
    return one if count == 1 else many.format(count)


def alert_message(
    alerts: Sequence[Alert], over: Sequence[str], good: Sequence[BackupRecord], now: datetime, zone: tzinfo
) -> Message | None:
    """None when there is nothing to tell. over: one line each. good: backups that went well."""
    lines = list(alert_lines(alerts, now, zone))
    lines += [visible(line) for line in _limited(list(over))]
    if good:
        lines.append(_good_line(good))
    if not lines:
        return None
    counts = [counted(kind, n) for kind in _ORDER if (n := sum(a.kind is kind for a in alerts))]
    what = ", ".join(counts) or (f"{len(over)} over" if over else _guests(good))
    bad = any(alert.kind in _BAD for alert in alerts)
    tone = Tone.BAD if bad else Tone.WARNING if alerts else Tone.GOOD
    return Message(f"vmconsole: {what}", "\n".join(lines), tone)


def alert_lines(
    alerts: Sequence[Alert], now: datetime, zone: tzinfo, *, singly: int | None = SINGLY
) -> Iterator[str]:
    """Kind by kind; a remedy that several share stands once, under the last of them.

    singly: so many of a kind are listed, the rest are counted; None: all are listed.
    """
    for kind in _ORDER:
        of_kind = [alert for alert in alerts if alert.kind is kind]
        shown = of_kind[:singly]
        for number, alert in enumerate(shown):
            yield visible(f"{'✗' if kind in _BAD else '!'} {alert.text}{_since(alert, now, zone)}")
            following = shown[number + 1].hint if number + 1 < len(shown) else ""
            if alert.hint and alert.hint != following:
                yield visible(f"  → {' '.join(alert.hint.split())}")
        if rest := len(of_kind) - len(shown):
            yield f"… and {rest} more: {counted(kind, len(of_kind))} in all. See: vmconsole notify list"


def _since(alert: Alert, now: datetime, zone: tzinfo) -> str:
    """Of what was told before."""
    if alert.sent is None or alert.since is None or now - alert.since < timedelta(minutes=1):
        return ""
    lasting = duration((now - alert.since).total_seconds())
    return f" (since {alert.since.astimezone(zone):%Y-%m-%d %H:%M}, {lasting})"


def _limited(lines: list[str]) -> list[str]:
    rest = len(lines) - SINGLY
    return lines if rest <= 0 else [*lines[:SINGLY], f"… and {rest} more like these."]


def _guests(good: Sequence[BackupRecord]) -> str:
    count = len({record.uuid for record in good})
    return "1 guest backed up" if count == 1 else f"{count} guests backed up"


def _good_line(good: Sequence[BackupRecord]) -> str:
    read, stored = sum(record.bytes_read for record in good), sum(record.bytes_stored for record in good)
    names = ", ".join(sorted({record.guest for record in good})[:SINGLY])
    more = ", …" if len({record.guest for record in good}) > SINGLY else ""
    return visible(f"✓ {_guests(good)}, {size(read)} read, {size(stored)} stored: {names}{more}")
