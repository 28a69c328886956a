from __future__ import annotations

import pytest

from vmconsole.front.inside import Where, where


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web@latest", ("web@latest", "", "")),
        ("web@latest:/", ("web@latest", "", "/")),
        ("web@latest:/etc/a:b", ("web@latest", "", "/etc/a:b")),
        ("web@-2:vda1:/etc", ("web@-2", "vda1", "/etc")),
        ("web@latest:vda1", ("web@latest", "vda1", "")),
        ("web@2026-11-22 20:00", ("web@2026-11-22 20:00", "", "")),
        ("web@2026-11-22T20:00:/x", ("web@2026-11-22T20:00", "", "/x")),
        ("web@2026-11-22 20:00:vg0-root:/", ("web@2026-11-22 20:00", "vg0-root", "/")),
        ("web@latest:etc/hosts", ("web@latest", "", "/etc/hosts")),
        ("web.6b0df9e9-20261126T022146Z:vdb:/a", ("web.6b0df9e9-20261126T022146Z", "vdb", "/a")),
    ],
)
def test_point_volume_and_path(text, expected):
    assert where(text) == Where(*expected)
