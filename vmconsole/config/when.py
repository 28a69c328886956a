"""Times as people write them: "daily 22:00", "weekdays 12:30", "every 4 h", "mon, fri 20:00", or cron."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable

from cronsim import CronSim, CronSimError

from vmconsole.config.units import parse_duration
from vmconsole.model.schedule import When, Window

_DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_SETS = {"daily": "*", "day": "*", "weekdays": "1-5", "weekday": "1-5", "weekends": "0,6", "weekend": "0,6"}
_NTH = {"first": "1", "second": "2", "third": "3", "fourth": "4", "last": "L"}
_TIME = r"([01]?[0-9]|2[0-3]):([0-5][0-9])"
_SHORTEST = 300.0
_DAY = 86400.0
_EXAMPLES = (
    'such as "daily 22:00", "weekdays 12:30", "monday, friday 20:00", "every 4 h", "last sunday 03:00"'
)


def parse_when(text: str) -> When:
    """Raises ValueError with a sentence for the user. cron: five fields, as crontab(5) has them, and L and #."""
    words = text.strip().lower()
    if words.startswith("every "):
        if re.fullmatch(r"every +[0-9].*", words):
            return _every(words.removeprefix("every "))
        words = words.removeprefix("every ")
    if re.fullmatch(r"hourly(?: +:[0-5][0-9])?", words):
        return When((f"{int(words.partition(':')[2] or 0)} * * * *",))
    if len(words.split()) == 5 and not re.search(_TIME, words):
        return When((_cron(words),))
    match = re.fullmatch(rf"(.*?)(?:,? +at)? +({_TIME}(?:\s*,\s*{_TIME})*)", words)
    if not match:
        if re.search(r"[0-9]{1,2}:[0-9]", words):
            raise ValueError(f'"{text}" has no time that is understood: write hours and minutes, {_EXAMPLES}')
        raise ValueError(f'"{text}" is not understood: write it {_EXAMPLES}, or as cron: "0 22 * * 1-5"')
    times = re.findall(_TIME, match[2])
    day_of_month, day_of_week = _days(match[1].strip(), text)
    return When(tuple(_cron(f"{int(m)} {int(h)} {day_of_month} * {day_of_week}") for h, m in times))


def _every(text: str) -> When:
    seconds = parse_duration(text)
    if seconds < _SHORTEST:
        raise ValueError("the shortest time between two backups is 5 min")
    if seconds % 60:
        raise ValueError("must be whole minutes")
    minutes = round(seconds / 60)
    # As clock times where they divide the day: people expect 00:00, 04:00 … in summer and in winter.
    if minutes < 60 and 60 % minutes == 0:
        return When((f"*/{minutes} * * * *",))
    if minutes % 60 == 0 and (minutes == 60 or (minutes < _DAY / 60 and 24 % (minutes // 60) == 0)):
        return When((f"0 */{minutes // 60} * * *",))
    if minutes == _DAY / 60:
        raise ValueError('say at what time: "daily 22:00"')
    return When((), every=minutes * 60)


def _days(words: str, text: str) -> tuple[str, str]:
    """(day of month, day of week), as cron writes them."""
    if words in _SETS:
        return "*", _SETS[words]
    if match := re.fullmatch(r"monthly(?:,? +(?:on +)?(?:the +)?([0-9]{1,2})(?:st|nd|rd|th)?\.?)?", words):
        day = int(match[1] or 1)
        if not 1 <= day <= 28:
            raise ValueError(f'there is no day {day} in every month: take 1 to 28, or "last day 22:00"')
        return str(day), "*"
    if words in ("last day", "last day of the month", "last day of month"):
        return "L", "*"
    first, _, rest = words.partition(" ")
    if first in _NTH and rest.strip() and (day_name := _day(rest.strip())) is not None:
        return "*", f"{day_name}{'L' if _NTH[first] == 'L' else '#' + _NTH[first]}"
    return "*", ",".join(_listed_days(re.split(r"\s*,\s*|\s+and\s+", words), text))


def _listed_days(parts: Iterable[str], text: str) -> Iterable[str]:
    for part in parts:
        if part in _SETS and part not in ("daily", "day"):
            yield _SETS[part]
            continue
        ends = [_day(end) for end in re.split(r"\s*-\s*|\s+to\s+", part, maxsplit=1)]
        if None in ends:
            raise ValueError(f'"{part or text}" is not a day: write it {_EXAMPLES}')
        if len(ends) == 1 or ends[0] == ends[1]:
            yield str(ends[0])
        elif (last := int(str(ends[1])) or 7) > int(str(ends[0])):
            yield f"{ends[0]}-{last}"
        else:  # over the weekend: friday-monday
            yield f"{ends[0]}-6"
            yield f"0-{ends[1]}"


def _day(word: str) -> int | None:
    found = [
        number for number, name in enumerate(_DAYS) if len(word) >= 2 and name.startswith(word.rstrip("s."))
    ]
    return found[0] if len(found) == 1 else None


def _cron(expression: str) -> str:
    try:
        # A time zone, because the rule must have a next time in it: there is no 30 February.
        moment = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
        next(CronSim(expression, moment))
    except StopIteration:
        raise ValueError(f'"{expression}" never comes: there is no such day') from None
    except CronSimError as error:
        raise ValueError(
            f'"{expression}" is not a cron expression ({str(error).rstrip(".").lower()}): write minute, hour, day, '
            'month, day of week, such as "0 22 * * 1-5"'
        ) from None
    return expression


def parse_window(value: object) -> Window:
    """Raises ValueError. From a text such as "22:00-06:00"; a Window is passed on."""
    if isinstance(value, Window):
        return value
    match = (
        re.fullmatch(rf"{_TIME}\s*(?:-|–|to)\s*({_TIME}|24:00)", value.strip())
        if isinstance(value, str)
        else None
    )
    if not match:
        raise ValueError('a window is written "22:00-06:00"')
    start = datetime.time(int(match[1]), int(match[2]))
    end = datetime.time(0) if match[3] == "24:00" else datetime.time(int(match[4]), int(match[5]))
    if start == end:
        raise ValueError("starts when it ends: leave it out if the whole day is meant")
    return Window(start, end)


def parse_pause(value: object) -> object:
    """true, false, a date or a time; local times come out without a zone. Raises ValueError."""
    if isinstance(value, datetime.datetime | bool):
        return value
    if isinstance(value, datetime.date):
        return datetime.datetime.combine(value, datetime.time())
    if isinstance(value, str):
        try:
            return datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            pass
    raise ValueError('must be true, false, or until when: "2026-12-24" or "2026-12-24 18:00"')
