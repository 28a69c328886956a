"""How each guest's newest backups ended, group by group."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vmconsole.interfaces import History
from vmconsole.model.history import BackupRecord, BackupState

_DECIDED = frozenset({BackupState.DONE, BackupState.WARNINGS, BackupState.FAILED, BackupState.DIED})
"""The others say nothing about whether the guest can be backed up: what was known before goes on holding."""
_LOOKED_AT = 100


@dataclass(frozen=True, slots=True)
class Verdicts:
    """decided: newest attempts that ended well or badly. running: those under way. By (guest uuid, group)."""

    decided: Mapping[tuple[str, str], BackupRecord]
    running: Mapping[tuple[str, str], BackupRecord]


def verdicts(history: History, covered: Mapping[str, Collection[str]]) -> Verdicts:
    """covered: by guest uuid, the groups it is in. A backup by hand counts for every group of its guest;
    for a guest in no group (group "" in the result) any counts.
    """
    decided: dict[tuple[str, str], BackupRecord] = {}
    running: dict[tuple[str, str], BackupRecord] = {}
    for uuid, newest in history.latest().items():
        if uuid not in covered:
            continue
        groups = covered[uuid] or ("",)
        records: Sequence[BackupRecord] = [newest]
        if len(groups) > 1 or newest.state not in _DECIDED or not _is_for(newest, next(iter(groups))):
            records = history.of_guest(uuid, _LOOKED_AT)
        for group in groups:
            mine = [record for record in records if _is_for(record, group)]
            if found := next((record for record in mine if record.state in _DECIDED), None):
                decided[uuid, group] = found
            if mine and mine[0].state is BackupState.RUNNING:
                running[uuid, group] = mine[0]
    return Verdicts(decided, running)


def _is_for(record: BackupRecord, group: str) -> bool:
    return not group or record.group in (group, "")
