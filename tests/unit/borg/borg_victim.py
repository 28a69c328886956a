"""A backup that kills itself (SIGKILL) at a named place. Run: borg_victim.py FOLDER PLACE COUNT

PLACE is `module:Class.method`; the process dies when it is entered for the COUNTth time, or with a
`!` in front when it has returned.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from functools import wraps

from borg_lab import CHUNK, DISK, PASSPHRASE, Lab, fill_archive, name, noise, point, wait_until

from vmconsole.borg.engine import quiet
from vmconsole.borg.settings import BorgSettings

SIZE = 12 * CHUNK


def arm(place: str, count: int) -> None:
    after = place.startswith("!")
    module_name, _, path = place.lstrip("!").partition(":")
    owner: object = importlib.import_module(module_name)
    *classes, method = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    original = getattr(owner, method)
    calls = 0

    @wraps(original)
    def wrapped(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == count and after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, wrapped)


def main() -> None:
    folder, place, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    quiet.prepare()
    lab = Lab(BorgSettings("store", f"{folder}/repo", lambda: PASSPHRASE, chunk_size=CHUNK, lock_wait=10))
    arm(place, count)
    with lab.repository.writer(lab.context) as writer:
        unfinished = writer.archive(name(1, "db"))
        slow = unfinished.disk(DISK, SIZE)
        slow.data(0, noise(6 * CHUNK, 1))
        wait_until(lambda: slow.bytes_stored > 6 * CHUNK)

        def fill(disk: object) -> None:
            disk.data(0, noise(SIZE // 2, 2))
            disk.reuse(SIZE // 2, SIZE // 2)

        fill_archive(writer.archive(name(1)), name(1), SIZE, fill, parent=name(0))
        slow.data(6 * CHUNK, noise(6 * CHUNK, 3))
        slow.close()
        unfinished.commit(point(name(1, "db"), {DISK: SIZE}), {})
    print("survived")


if __name__ == "__main__":
    main()
