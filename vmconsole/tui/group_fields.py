"""A group's fields as people type them: from the file's table into texts, and back into a table or a command. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import Enum
from typing import Any

from vmconsole.config.disk_rules import parse_disks, write_disks
from vmconsole.config.units import write_duration
from vmconsole.errors import ConfigError


class Kind(Enum):
    """How a field is typed, and how it stands in the file."""

    LIST = "list"
    TEXT = "text"
    KEEP = "keep"
    FLAG = "flag"
    """Yes or no; no is what holds when nothing is said."""
    THREE = "three"
    """Yes, no, or as in [defaults]."""
    WORD = "word"
    """One of a few words; the first is what holds when nothing is said."""
    COUNT = "count"
    DISKS = "disks"
    REPOSITORY = "repository"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Field:
    """key: in the file. hint: one line on what it means. example: what could stand there.

    words: those there are to choose from, and how each is shown.
    """

    key: str
    label: str
    kind: Kind
    hint: str
    example: str = ""
    words: tuple[tuple[str, str], ...] = ()

    @property
    def option(self) -> str:
        return "--" + self.key.replace("_", "-")


FIELDS = (
    Field("guests", "guests", Kind.LIST, "names, host/name or uuids; * and ? match", "web-*, kvm1/db"),
    Field("tags", "tags", Kind.LIST, "every guest with one of these tags", "prod, daily"),
    Field("hosts", "hosts", Kind.LIST, "every guest on these hosts, or host/node; * is all", "kvm1, pve/node2"),
    Field("pools", "pools", Kind.LIST, "every guest in these Proxmox pools", "customers"),
    Field("kinds", "kinds", Kind.LIST, "every vm, container or template", "vm, container"),
    Field("exclude", "but not", Kind.LIST, "guests to leave out, written as in guests", "*-test"),
    Field("exclude_tags", "nor tags", Kind.LIST, "no guest with one of these tags", "scratch"),
    Field("exclude_disks", "but no disks", Kind.DISKS, "guest=disk, or #tag=disk, to leave out",
          "db=vdb, #scratch=scsi[1-9]"),
    Field("only_disks", "only disks", Kind.DISKS, "of these guests, or tags, only these disks", "mail=vda"),
    Field("when", "when", Kind.TEXT, "daily 22:00, weekdays 12:30, every 4 h, last sunday 03:00, or as cron"),
    Field("window", "window", Kind.TEXT, "work starts, and may go on, only in here", "22:00-06:00"),
    Field("jitter", "jitter", Kind.TEXT, "start up to so much later, each guest at its own time", "20 min"),
    Field("keep", "keep", Kind.KEEP, "last, hourly, daily, weekly, monthly, yearly, minimum",
          "14 daily, 8 weekly, 12 monthly"),
    Field("full_every", "full every", Kind.COUNT, "so many runs everything is read again; empty: as in [defaults]",
          "30"),
    Field("repository", "repository", Kind.REPOSITORY, "where the restore points go; space or the arrows choose"),
    Field("overdue_after", "overdue after", Kind.TEXT,
          "without a good restore point for so long a guest is late", "26 h"),
    Field("together", "together", Kind.FLAG, "freeze and cut all guests at once; space or the arrows choose"),
    Field("when_not_together", "if it cannot", Kind.WORD,
          "be cut together: what becomes of all; space or the arrows choose",
          words=(("fail", "all fail"), ("apart", "each is backed up by itself"))),
    Field("freeze", "freeze", Kind.THREE, "freeze file systems through the agent; space or the arrows choose"),
    Field("paused", "paused", Kind.PAUSE, "empty: no; yes, or until a date", "2026-12-24 18:00"),
    Field("ping", "ping", Kind.TEXT, "address that is called after each scheduled run: a watchdog", "https://hc.example/abc"),
)  # fmt: skip
_OF_A_SCHEDULE = ("when", "window", "jitter", "keep", "full_every", "paused")
_AS_IN_GROUP = ("window", "jitter", "keep", "full_every")
SCHEDULE_FIELDS = tuple(
    replace(item, hint=f"{item.hint.partition('; empty')[0]}; empty: as in the group")
    if item.key in _AS_IN_GROUP
    else item
    for item in FIELDS
    if item.key in _OF_A_SCHEDULE
)
"""Of a schedule that has a table of its own."""
_COVERING = ("guests", "tags", "hosts", "pools", "kinds")
_RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly", "minimum")
_OTHER_WORDS = {"at least": "minimum", "least": "minimum", "min": "minimum", "hours": "hourly", "days": "daily",
                "weeks": "weekly", "months": "monthly", "years": "yearly", "the last": "last"}  # fmt: skip
_YES = ("yes", "true", "on")
_NO = ("no", "false", "off")


def texts_of(table: Mapping[str, Any], fields: Sequence[Field] = FIELDS) -> dict[str, str]:
    """By key, what stands in the fields for a table of the file."""
    return {item.key: _text(table.get(item.key), item) for item in fields}


def values_of(texts: Mapping[str, str], fields: Sequence[Field] = FIELDS) -> dict[str, Any]:
    """As TOML data; None for an empty field. Raises ConfigError for what cannot even be read."""
    return {item.key: _value(texts.get(item.key, "").strip(), item) for item in fields}


def changed(
    before: Mapping[str, str], after: Mapping[str, str], fields: Sequence[Field] = FIELDS
) -> dict[str, Any]:
    """The fields that say something else now, as TOML data; None for one that was emptied."""
    new = values_of(after, fields)
    return {
        key: value for key, value in new.items() if after.get(key, "").strip() != before.get(key, "").strip()
    }


def group_command(name: str, changes: Mapping[str, Any], *, new: bool, schedule: str = "") -> tuple[str, ...]:
    """The command line that makes these changes; changes as changed() returns them.

    schedule: the one of several that they are about.
    """
    words = ["group", "add" if new else "edit", name]
    words += ["--schedule", schedule] if schedule else []
    for item in FIELDS:
        if item.key not in changes or (new and changes[item.key] is None):
            continue
        words += _option(item, changes[item.key])
    return tuple(words)


def schedule_in_short(table: Mapping[str, Any]) -> str:
    """`daily 22:00, keeps 7 daily`: of a schedule's own table in the file."""
    texts = texts_of(table, SCHEDULE_FIELDS)
    parts = [texts["when"], texts["window"] and f"only {texts['window']}"]
    parts.append(texts["keep"] and f"keeps {texts['keep']}")
    parts.append(
        texts["paused"] and ("paused" if texts["paused"] == "yes" else f"paused until {texts['paused']}")
    )
    return ", ".join(filter(None, parts))


def covers_nothing(values: Mapping[str, Any]) -> bool:
    return not any(values.get(key) for key in _COVERING)


def _option(item: Field, value: Any) -> list[str]:
    if item.kind is Kind.PAUSE:
        if value is None:
            return ["--resume"]
        return ["--pause"] if value is True else ["--pause", str(value)]
    if item.kind is Kind.FLAG:
        return [item.option if value else f"--no-{item.key}"]
    if item.kind is Kind.THREE:
        return [item.option, {True: "yes", False: "no"}.get(value, "default")]
    if item.kind is Kind.WORD:
        return [item.option, str(value or item.words[0][0])]
    text = _written(value)
    # What begins with a dash would be taken for an option of its own.
    return [f"{item.option}={text}"] if text.startswith("-") else [item.option, text]


def _written(value: Any) -> str:
    if isinstance(value, Mapping) and any(isinstance(disks, list) for disks in value.values()):
        return write_disks(value)
    if isinstance(value, Mapping):
        return ",".join(f"{key}={count}" for key, count in value.items())
    if isinstance(value, list):
        return ",".join(value)
    return "" if value is None else str(value)


def _text(value: Any, item: Field) -> str:
    if item.kind is Kind.THREE:
        return {True: "yes", False: "no"}.get(value, "default")
    if item.kind is Kind.FLAG:
        return "yes" if value else "no"
    if item.kind is Kind.WORD:
        return str(value or item.words[0][0])
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    if item.kind is Kind.COUNT:
        return str(value)
    if isinstance(value, Mapping) and item.kind is Kind.DISKS:
        return write_disks(value).replace(",", ", ")
    if isinstance(value, Mapping):
        return ", ".join(f"{count} {key}" if key not in ("last", "minimum") else f"{key} {count}"
                         for key, count in value.items())  # fmt: skip
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, date):
        return value.isoformat()
    return write_duration(float(value)) if isinstance(value, int | float) else str(value)


def _value(text: str, item: Field) -> Any:
    if item.kind is Kind.THREE:
        return {"yes": True, "no": False}.get(text)
    if item.kind is Kind.FLAG:
        return True if text == "yes" else None
    if item.kind is Kind.WORD:
        return text if text and text != item.words[0][0] else None
    if not text:
        return None
    if item.kind is Kind.COUNT:
        return _count(text, item)
    if item.kind is Kind.DISKS:
        return _disks(text, item)
    if item.kind is Kind.LIST:
        return list(dict.fromkeys(filter(None, (word.strip() for word in text.split(","))))) or None
    if item.kind is Kind.KEEP:
        return parse_keep(text)
    if item.kind is Kind.PAUSE and text.lower() in (*_YES, *_NO):
        return True if text.lower() in _YES else None
    return text


def _count(text: str, item: Field) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise ConfigError(
            f'{item.label}: "{text}" is not a number of runs.',
            hint="Write a number from 1 on, as 30, or nothing for what [defaults] say.",
        )
    return int(text)


def _disks(text: str, item: Field) -> dict[str, list[str]] | None:
    try:
        return parse_disks(text) or None
    except ConfigError as error:
        raise ConfigError(f"{item.label}: {error.message}", hint=error.hint) from error


def parse_keep(text: str) -> dict[str, int]:
    """`14 daily, 8 weekly`, `daily=14 weekly=8`, `last 3, at least 2`. Raises ConfigError."""
    found: dict[str, int] = {}
    for part in filter(None, (part.strip().lower() for part in re.split(r"[,;+]", _separated(text)))):
        match = re.fullmatch(r"(?:([0-9]{1,6}) *([a-z ]+)|([a-z ]+?) *[=:]? *([0-9]{1,6}))", part)
        word = ((match[2] or match[3]).strip() if match else part).rstrip(" ")
        name = _OTHER_WORDS.get(word, word)
        if match is None or name not in _RULES:
            raise ConfigError(
                f'keep: "{part}" is not understood.',
                hint=f"Write it as 14 daily, 8 weekly. There are: {', '.join(_RULES)}.",
            )
        if name in found:
            raise ConfigError(f"keep: {name} stands there twice.", hint="Keep one of them.")
        found[name] = int(match[1] or match[4])
    if not found:
        raise ConfigError("keep: there is no rule.", hint="Write it as 14 daily, 8 weekly.")
    return found


def _separated(text: str) -> str:
    """`daily=14 weekly=8` as `daily=14, weekly=8`."""
    return re.sub(r"(?<=[0-9])\s+(?=[a-z]+\s*[=:])", ", ", text.strip(), flags=re.IGNORECASE)
