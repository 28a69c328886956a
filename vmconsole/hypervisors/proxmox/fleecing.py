"""Images for what a guest overwrites while it is read: where they are, how they are made and freed.

Their names hold the run, so that freeing them can never hit anything else, and can be done knowing
no more than the plan. Pure: steps for guard.pl.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vmconsole.hypervisors.proxmox import names
from vmconsole.hypervisors.proxmox.facts import FleecingPlace
from vmconsole.hypervisors.proxmox.graph import Step

_FILES = frozenset({"dir", "nfs", "cifs", "glusterfs", "cephfs", "btrfs"})
"""Storage types whose volumes are files in a folder per guest, with their format as suffix."""
_ABSENT = "(?i)does not exist|no such|not found|failed to find|can't find|cannot find"
_ALLOCATE_SECONDS = 300
ACTIVATE = "PVE::Storage::activate_volumes(PVE::Storage::config(), [@ARGV])"
DEACTIVATE = "PVE::Storage::deactivate_volumes(PVE::Storage::config(), [@ARGV])"


@dataclass(frozen=True, slots=True)
class Image:
    """One image. volume: as Proxmox names it; path: in a folder. One of the two is empty. size: bytes."""

    key: str
    size: int
    volume: str = ""
    path: str = ""


def images(place: FleecingPlace, vmid: int, run: str, sizes: Mapping[str, int]) -> list[Image]:
    """sizes: per disk key."""
    short = names.plain(run)[-16:]
    found = []
    for number, (key, size) in enumerate(sizes.items()):
        if place.kind == "folder":
            path = f"{place.name.rstrip('/')}/{names.PREFIX}{vmid}-{short}-{number}.fleecing"
            found.append(Image(key, size, path=path))
        else:
            name = f"vm-{vmid}-fleece-{names.PREFIX}{short}-{number}"
            inside = f"{vmid}/{name}.raw" if place.type in _FILES else name
            found.append(Image(key, size, volume=f"{place.name}:{inside}"))
    return found


def allocate(made: Iterable[Image], vmid: int) -> list[Step]:
    """Make them, without reserving anything yet. The results `path KEY` say where the volumes are."""
    steps: list[Step] = []
    for image in made:
        mark = f"image-{image.key}"
        if image.path:
            command = ["dd", "if=/dev/null", f"of={image.path}", "bs=1", f"seek={image.size}", "conv=excl"]
            steps.append({"run": command, "mark": mark})
            continue
        storage, _, inside = image.volume.partition(":")
        size = str(-(-image.size // 1024))
        command = ["pvesm", "alloc", storage, str(vmid), inside.rpartition("/")[2], size, "--format", "raw"]
        steps += [
            {"run": command, "mark": mark, "limit": _ALLOCATE_SECONDS},
            *locate(image.key, image.volume),
        ]
    return steps


def locate(key: str, volume: str) -> list[Step]:
    """Activate a volume and say its path, as the result `path KEY`."""
    return [
        {"run": ["perl", "-MPVE::Storage", "-e", ACTIVATE, volume], "limit": _ALLOCATE_SECONDS},
        {"run": ["pvesm", "path", volume], "keep": f"path-{key}"},
    ]


def reserve(paths: Mapping[str, str], made: Iterable[Image]) -> list[Step]:
    """Set the full size of those that are files aside; volumes of other kinds were made in full size."""
    return [
        {"run": ["fallocate", "-l", str(image.size), paths[image.key]], "limit": _ALLOCATE_SECONDS}
        for image in made
        if not paths[image.key].startswith("/dev/")
    ]


def free(made: Sequence[Image]) -> list[Step]:
    steps: list[Step] = []
    for image in made:
        if image.path:
            command, limit = ["rm", "-f", "--", image.path], 60
        else:
            command, limit = ["pvesm", "free", image.volume], _ALLOCATE_SECONDS
        steps.append({"run": command, "limit": limit, "if": f"image-{image.key}", "ignore": _ABSENT})
    return steps
