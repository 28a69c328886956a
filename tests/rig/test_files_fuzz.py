"""Images with bytes changed at random, by the hundreds: the parser answers, or is ended by its limits; nothing else.

python tests/rig/test_files_fuzz.py 5000     that many of every kind, some hours
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.rig, pytest.mark.timeout(600)]

MIB = 1024 * 1024
KINDS = {
    "ext4": (("mkfs.ext4", "-qF"), 8),
    "ext2": (("mkfs.ext2", "-qF", "-b", "1024"), 4),
    "xfs": (("mkfs.xfs", "-q"), 300),
    "btrfs": (("mkfs.btrfs", "-q"), 110),
    "ntfs": (("mkfs.ntfs", "-qF"), 8),
    "fat16": (("mkfs.vfat", "-F", "16"), 16),
    "exfat": (("mkfs.exfat",), 8),
}
ROUNDS = 40
_SECONDS = 5
"""For one image. The parser's process is ended after 60 s of one question, and that is all a broken image may do."""
_STEPS = 400
"""Folders and files that are looked at in one image: a broken one can be endless."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_image_breaks_nothing(kind: str, tmp_path: Path) -> None:
    words, size = KINDS[kind]
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(size * MIB)
    subprocess.run([*words, image], check=True, capture_output=True)
    _put_files(kind, image, tmp_path / "m")
    # In a process of its own, so that one that hangs or dies is seen as that.
    done = subprocess.run(
        [sys.executable, __file__, str(ROUNDS), str(image)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{ROUNDS} images" in done.stdout


def _put_files(kind: str, image: Path, where: Path) -> None:
    source = where.with_name("source")
    (source / "folder").mkdir(parents=True)
    for number in range(40):
        (source / f"folder/file {number}").write_bytes(bytes([number]) * number * 100)
    if kind == "fat16":
        subprocess.run(["mcopy", "-s", "-i", image, source / "folder", "::"], check=True)
        return
    if kind in ("ntfs", "exfat"):
        return  # What the tool that makes them writes has folders and files enough.
    where.mkdir()
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    try:
        shutil.copytree(source / "folder", where / "folder")
        (where / "link").symlink_to("folder")
    finally:
        subprocess.run(["umount", where], check=True)


def rounds(image: Path, count: int, seed: int = 1) -> None:
    """Read image with some bytes changed, count times. Whatever the parser may raise, its worker's loop answers."""
    from vmconsole.guestfs.wire import BYTES
    from vmconsole.guestfs.worker import Worker

    content = image.read_bytes()
    used = [at for at in range(0, len(content), 512) if content[at : at + 512].count(0) < 512]
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        changed = bytearray(content)
        for _ in range(rng.choice((1, 4, 32, 256))):
            at = rng.choice(used) + rng.randrange(512)
            changed[at] = rng.choice((0, 0xFF, 0x7F, rng.randrange(256)))
        _read_all(Worker, bytes(changed), BYTES, number)
    print(f"{count} images")


class _TooLong(BaseException):
    """Not an Exception: the parser's loop answers those."""


def _too_long(*_: object) -> None:
    raise _TooLong


def _read_all(worker: type, content: bytes, letter: int, number: int) -> None:
    """One parser, asked as the console would: volumes, folders, files."""
    import json
    import signal

    pending: list[dict[str, object]] = [{"op": "open", "disks": [{"id": "vda", "size": len(content)}]}]
    answers: list[tuple[int, bytes]] = []
    steps = [0]

    def receive() -> tuple[int, bytes]:
        if answers:
            return answers.pop()
        steps[0] += 1
        if not pending or steps[0] > _STEPS:
            raise SystemExit
        return ord("J"), json.dumps(pending.pop()).encode()

    def send(answer: bytes | dict[str, object]) -> None:
        if isinstance(answer, bytes):
            return
        if "ask" in answer:
            _, offset, length = answer["ask"]  # type: ignore[misc]
            answers.append((letter, content[offset : offset + length].ljust(length, b"\0")))
        for volume in answer.get("volumes", ()):  # type: ignore[attr-defined]
            here[0] = str(volume["name"])
            pending.append({"op": "list", "volume": here[0], "path": "/"})
        for entry in answer.get("entries", ()):  # type: ignore[attr-defined]
            path = f"/{entry['name']}"
            pending.append({"op": "list", "volume": here[0], "path": path})
            pending.append({"op": "read", "volume": here[0], "path": path, "offset": 0, "length": MIB})

    here = ["vda"]
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(_SECONDS)
    try:
        worker(receive, send).serve()
    except SystemExit:
        return
    except _TooLong:
        print(f"image {number}: took {_SECONDS} s, which ends the process", file=sys.stderr)
    except MemoryError:
        print(f"image {number}: out of memory, which ends the process", file=sys.stderr)
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    sys.path.insert(0, os.environ.get("PYTHONPATH", "."))
    if len(sys.argv) > 2:
        from vmconsole.guestfs.worker import confine  # noqa: F401 - what it imports is what is tried

        rounds(Path(sys.argv[2]), int(sys.argv[1]))
    else:
        sys.exit("image wanted: see pytest")
