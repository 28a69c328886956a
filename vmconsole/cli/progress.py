"""Progress bars on a terminal: one line per disk being moved, with rate and time left."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich import progress as bars
from rich.console import Console
from rich.text import Text

from vmconsole.cli.format import visible
from vmconsole.events import DiskProgress, Event, GuestFailed, PointMade, Restored, RunFinished, StepStarted


class Progress:
    """A context manager; update() and follow() are called under the output's lock."""

    def __init__(self, console: Console) -> None:
        self._bars = bars.Progress(
            _Name(),
            bars.BarColumn(bar_width=24),
            bars.TaskProgressColumn(),
            bars.DownloadColumn(binary_units=True),
            bars.TransferSpeedColumn(),
            bars.TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            refresh_per_second=2,
        )
        self._tasks: dict[tuple[str, str], bars.TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, event: DiskProgress) -> None:
        key = (event.guest, event.disk)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(f"{event.guest} {event.disk}", total=event.total or None)
        self._bars.update(self._tasks[key], completed=event.done, total=event.total or 1)

    def follow(self, event: Event) -> None:
        """Name the step a guest is in; take its lines away when it is done."""
        if isinstance(event, StepStarted):
            for (guest, disk), task in self._tasks.items():
                if guest == event.guest:
                    self._bars.update(task, description=f"{guest} {disk} · {event.step}")
        elif isinstance(event, PointMade | GuestFailed):
            for key in [key for key in self._tasks if key[0] == event.guest]:
                self._bars.remove_task(self._tasks.pop(key))
        elif isinstance(event, Restored | RunFinished):
            for task in self._tasks.values():
                self._bars.remove_task(task)
            self._tasks.clear()


class _Name(bars.ProgressColumn):
    """The task's name as plain text: guests' names may hold markup."""

    def render(self, task: bars.Task) -> Text:
        return Text(visible(task.description), overflow="ellipsis", no_wrap=True)
