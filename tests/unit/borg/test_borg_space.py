from __future__ import annotations

import shutil

from vmconsole.borg.space import local_space


def test_as_df_says(tmp_path):
    space = local_space("main", str(tmp_path))
    assert space is not None
    assert space.name == "main"
    assert 0 <= space.free <= space.size <= shutil.disk_usage(tmp_path).total
    assert 0 <= space.used_percent <= 100


def test_elsewhere_and_not_there(tmp_path):
    assert local_space("main", "ssh://backup@host/./repo") is None
    assert local_space("main", str(tmp_path / "none")) is None
