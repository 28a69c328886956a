"""The loop of `--run-schedule --loop`: what goes wrong in one turn does not end it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmconsole.cli import run_schedule
from vmconsole.errors import Cancelled, ConfigError
from vmconsole.interfaces import Cancel


class Services:
    """As much as the loop itself asks for."""

    config_path = Path("/c.toml")

    def __init__(self) -> None:
        self.cancel = Cancel()
        self.closed = 0

    def at(self, path: Path) -> Services:
        return self

    def close(self) -> None:
        self.closed += 1


class Output:
    def __init__(self) -> None:
        self.told: list[str] = []

    def error(self, error: Exception) -> None:
        self.told.append(str(error))


def test_a_configuration_that_is_being_edited_does_not_end_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    services, output, turns = Services(), Output(), iter(["broken", "good"])

    def turn(_services: Services, _output: Output) -> float:
        if next(turns) == "broken":
            raise ConfigError("/c.toml line 7: not valid TOML.")
        services.cancel.set("Stopped by SIGTERM.")
        return 0.0

    monkeypatch.setattr(run_schedule, "_turn", turn)
    monkeypatch.setattr(run_schedule, "_LOOP_SECONDS", 0.0)
    with pytest.raises(Cancelled):
        run_schedule._loop(services, output)  # type: ignore[arg-type]  # stand-ins
    assert output.told == ["/c.toml line 7: not valid TOML."]
    assert services.closed == 2
