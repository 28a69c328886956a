from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from borg_lab import CHUNK, PASSPHRASE, Lab

from vmconsole.borg.repository import BorgRepository, BorgSettings
from vmconsole.remote.local import LocalMachine


@pytest.fixture(scope="session")
def borg_templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with an empty repository made by `borg init`, and Borg's home, per encryption mode."""
    made: dict[str, Path] = {}

    def template(encryption: str) -> Path:
        if encryption not in made:
            folder = tmp_path_factory.mktemp(encryption)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("BORG_BASE_DIR", str(folder / "home"))
                settings = BorgSettings("template", str(folder / "repo"), lambda: PASSPHRASE, encryption)
                BorgRepository(settings, LocalMachine()).create()
            made[encryption] = folder
        return made[encryption]

    return template


@pytest.fixture(autouse=True)
def borg_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Borg's keys, caches and memory of repositories, empty, for this test alone."""
    home = tmp_path / "home"
    monkeypatch.setenv("BORG_BASE_DIR", str(home))
    for variable in ("BORG_PASSPHRASE", "BORG_PASSCOMMAND", "BORG_PASSPHRASE_FD", "BORG_REPO", "BORG_RSH"):
        monkeypatch.delenv(variable, raising=False)
    return home


@pytest.fixture
def make_lab(borg_templates: Callable[[str], Path], tmp_path: Path, borg_home: Path) -> Callable[..., Lab]:
    def make(encryption: str = "repokey-blake2", **settings: object) -> Lab:
        shutil.copytree(borg_templates(encryption), tmp_path, dirs_exist_ok=True)
        values: dict[str, object] = {"chunk_size": CHUNK, "lock_wait": 10.0, **settings}
        return Lab(BorgSettings("store", str(tmp_path / "repo"), lambda: PASSPHRASE, encryption, **values))  # type: ignore[arg-type] - tests name real fields

    return make


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab()
