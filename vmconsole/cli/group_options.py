"""What `group add` and `group edit` take, and how it stands in the configuration file."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from vmconsole.config.disk_rules import parse_disks, write_disks
from vmconsole.errors import ConfigError, UsageError

_LISTS = {
    "guests": ("GLOB", "name, host/name or uuid; * and ? match"),
    "tags": ("TAG", "every guest with this tag"),
    "hosts": ("GLOB", "every guest on these hosts, or nodes as host/node"),
    "pools": ("GLOB", "every guest in these Proxmox pools"),
    "kinds": ("KIND", "every vm, container or template"),
    "exclude": ("GLOB", "but not these guests"),
    "exclude_tags": ("TAG", "but no guest with this tag"),
}
"""May be repeated, or hold several with commas between."""
_DISKS = {
    "exclude_disks": "leave these disks out, as in db=vdb,'#scratch=scsi[1-9]' for guests with a tag",
    "only_disks": "the other way round: of these guests only these disks",
}
_COVERING = ("guests", "tags", "hosts", "pools", "kinds")
_TEXTS = {
    "repository": ("NAME", "where the restore points go"),
    "when": ("RULE", 'as in "daily 22:00", "weekdays 12:30", "every 4 h", "0 22 * * 1-5"'),
    "window": ("HH:MM-HH:MM", "work starts, and may go on, only in here"),
    "jitter": ("TIME", "start up to so much later, differently for each guest"),
    "overdue_after": ("TIME", "a guest without a good restore point for so long is overdue"),
    "ping": ("URL", "called after each scheduled run: a watchdog such as healthchecks.io"),
}
_SINGULAR = {"guests": "--guest", "tags": "--tag", "hosts": "--host", "pools": "--pool", "kinds": "--kind"}
_SHORT = {"repository": "-r"}
_TOGETHER = {"fail": None, "apart": "apart"}
_OF_A_SCHEDULE = ("when", "window", "jitter", "keep", "full_every", "paused")
_FREEZE = {"yes": True, "no": False, "default": None}


def configure(parser: argparse.ArgumentParser, *, edit: bool) -> None:
    several = "Given several times, or with commas between."
    emptied = "What is given replaces what was there; '' removes it."
    which = parser.add_argument_group("which guests", f"{several}\n{emptied}" if edit else several)
    for key, (metavar, text) in _LISTS.items():
        names = [_option(key), *([_SINGULAR[key]] if key in _SINGULAR else [])]
        which.add_argument(*names, dest=key, action="append", metavar=metavar, help=text)
    for key, text in _DISKS.items():
        which.add_argument(_option(key), dest=key, action="append", metavar="GUEST=DISK", help=text)
    how = parser.add_argument_group("when and where", emptied if edit else None)
    for key, (metavar, text) in _TEXTS.items():
        names = [_option(key), *([_SHORT[key]] if key in _SHORT else [])]
        how.add_argument(*names, dest=key, metavar=metavar, help=text)
    how.add_argument(
        "--keep",
        metavar="RULES",
        help="as in daily=14,weekly=8,monthly=12; also last, hourly, yearly, minimum",
    )
    how.add_argument(
        "--full-every",
        metavar="RUNS",
        help="read everything again after so many runs; default: as in [defaults]",
    )
    how.add_argument(
        "--together",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="freeze and cut all its guests at the same moment, whatever hosts they are on",
    )
    how.add_argument(
        "--when-not-together",
        choices=tuple(_TOGETHER),
        help="when one of them cannot be frozen in time: fail all (default), or back up each by itself",
    )
    how.add_argument(
        "--freeze",
        choices=tuple(_FREEZE),
        help="freeze guest file systems through the agent; default: as in [defaults]",
    )
    if edit:
        how.add_argument(
            "--schedule",
            metavar="SCHEDULE",
            help="change this one of several schedules, each of which has a table of its own",
        )
    pause = how.add_mutually_exclusive_group()
    pause.add_argument(
        "--pause",
        nargs="?",
        const=True,
        metavar="UNTIL",
        help='nothing is due, for good or until "2026-12-24 18:00"',
    )
    pause.add_argument("--resume", action="store_true", help="end a pause")
    parser.add_argument(
        "--dry-run",
        "-n",
        action="store_true",
        help="show the group, and the guests it would cover; change nothing",
    )


def new_group(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a new group. Raises UsageError."""
    values = {key: value for key, value in changes(args).items() if value is not None}
    if not values.keys() & set(_COVERING):
        raise UsageError(
            "Say which guests: --guests, --tags, --hosts, --pools or --kinds.", hint="All guests: --hosts '*'"
        )
    return values


def changes(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, as TOML data; None for a field to be removed. Raises UsageError."""
    wanted: dict[str, Any] = {}
    for key in _LISTS:
        if (given := getattr(args, key)) is not None:
            words = [word.strip() for text in given for word in text.split(",")]
            wanted[key] = list(dict.fromkeys(filter(None, words))) or None
    for key in _TEXTS:
        if (given := getattr(args, key)) is not None:
            wanted[key] = given.strip() or None
    for key in _DISKS:
        if (given := getattr(args, key)) is not None:
            wanted[key] = _disks(key, ",".join(given))
    if args.keep is not None:
        wanted["keep"] = _keep(args.keep)
    if args.full_every is not None:
        wanted["full_every"] = _count(args.full_every)
    if args.together is not None:
        wanted["together"] = True if args.together else None
    if args.when_not_together is not None:
        wanted["when_not_together"] = _TOGETHER[args.when_not_together]
    if args.freeze is not None:
        wanted["freeze"] = _FREEZE[args.freeze]
    if args.pause is not None:
        wanted["paused"] = args.pause
    if args.resume:
        wanted["paused"] = None
    return wanted


def within(args: argparse.Namespace, wanted: Mapping[str, Any], table: Mapping[str, Any]) -> tuple[str, ...]:
    """Where in the group's table the changes are to be made. table: as it stands in the file. Raises UsageError."""
    if args.schedule is None:
        return ()
    own = table.get("schedules", {})
    if args.schedule not in own:
        raise UsageError(
            f"Group {args.name} has no schedule {args.schedule!r} with a table of its own.",
            hint=f"There are: {', '.join(own)}." if own else "It has one schedule: leave out --schedule.",
        )
    if others := [_option(key) for key in wanted if key not in _OF_A_SCHEDULE]:
        raise UsageError(
            f"{', '.join(others)}: that is the group's, and not one of its schedules'.",
            hint="Change it by a command without --schedule.",
        )
    return ("schedules", args.schedule)


def as_typed(value: object) -> str:
    """A field's value, for a message."""
    if isinstance(value, Mapping) and any(isinstance(item, list | tuple) for item in value.values()):
        return write_disks(value).replace(",", ", ")
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={count}" for name, count in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return {None: "–", True: "yes", False: "no"}.get(value, str(value))  # type: ignore[call-overload, no-any-return]


def _keep(text: str) -> dict[str, int] | None:
    rules: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"([a-z]+)\s*[=:]?\s*([0-9]{1,6})", part)
        if not match:
            raise UsageError(f"--keep {part!r} is not NAME=NUMBER.", hint="As in: --keep daily=14,weekly=8")
        if match[1] in rules:
            raise UsageError(f"--keep names {match[1]} twice.", hint="As in: --keep daily=14,weekly=8")
        rules[match[1]] = int(match[2])
    return rules or None


def _disks(key: str, text: str) -> dict[str, list[str]] | None:
    try:
        return parse_disks(text) or None
    except ConfigError as error:
        raise UsageError(f"{_option(key)}: {error.message}", hint=error.hint) from error


def _count(text: str) -> int | None:
    if not text.strip():
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text.strip()):
        raise UsageError(f"--full-every {text!r} is not a number of runs.", hint="As in: --full-every 30")
    return int(text)


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")
