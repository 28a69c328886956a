"""The list of restore points that a writer keeps."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from borg_lab import CHUNK, Lab, name, noise

from vmconsole.borg.engine import catalog
from vmconsole.borg.engine.access import Access


def test_a_point_is_read_once_however_often_the_list_is_asked_for(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        lab.write(name(number), CHUNK, lambda disk, n=number: disk.data(0, noise(CHUNK, n)))
    lab.borg("create", "::foreign", str(lab.path / "config"))
    fetched: list[bytes] = []
    fetch = Access.fetch

    def counting(self: Access, ids: Sequence[bytes]) -> list[bytes]:
        fetched.extend(ids)
        return fetch(self, ids)

    monkeypatch.setattr(Access, "fetch", counting)
    with lab.repository.writer(lab.context) as writer:
        first = writer.points()
        assert [made.archive for made in first] == [name(2), name(1), name(0)]
        read = len(fetched)
        assert read >= 3 * 3 + 1
        assert writer.points() == first
        assert len(fetched) == read


def test_the_id_of_a_repository_is_known_while_it_is_written(lab: Lab) -> None:
    repository = lab.repository
    asked = repository.id()
    with repository.writer(lab.context):
        # The borg command would wait for the lock that we hold.
        assert repository.id() == asked
    assert repository.id() == asked


@pytest.mark.slow
def test_who_lists_points_meanwhile_gets_all_of_them(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two guests' threads list the same repository for the first time: the second must not see an empty one."""
    for day in (1, 2):
        lab.write(name(day), CHUNK, lambda disk, day=day: disk.data(0, noise(CHUNK, day)))
    real, meanwhile = catalog._points, []
    with lab.repository.writer(lab.context) as writer:

        def slow(*arguments):
            if not meanwhile:
                meanwhile.append(None)
                meanwhile.append([point.archive for point in writer.points()])
            return real(*arguments)

        monkeypatch.setattr(catalog, "_points", slow)
        first = [point.archive for point in writer.points()]
    assert first == meanwhile[1] == [name(2), name(1)]
