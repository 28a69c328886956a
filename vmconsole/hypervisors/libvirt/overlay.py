"""Overlays that a backup put on top of a guest's images, and merging them back.

While an overlay is on top, the guest writes into it and the image below stands still. It holds what
the guest wrote last, so it is removed only when no definition of the guest names it any more. A
running guest is merged by libvirt (merge.sh); one that was switched off meanwhile by qemu-img, after
which its definition is put right.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from xml.etree.ElementTree import Element, tostring

from vmconsole.errors import CommandFailed, HostError, ProtocolError
from vmconsole.hypervisors.libvirt import names
from vmconsole.hypervisors.libvirt.facts import ImageBitmap
from vmconsole.hypervisors.libvirt.images import parse_info
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.hypervisors.libvirt.xml import parse

FIELD = "overlays"
"""Of the journal's payload."""
MERGE_SECONDS = 12 * 3600.0
"""As long as the guest's writes during a whole backup may take to be written again."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """disk: target device. file: the overlay. base, format, kind: the path, format and libvirt disk type of
    the image below. source: that image's `<source>` element as it was in the stored definition."""

    disk: str
    file: str
    base: str
    format: str
    kind: str
    source: str


def payload(overlays: Sequence[Overlay]) -> dict[str, str]:
    """More fields for the journal's entry."""
    return {FIELD: json.dumps([asdict(item) for item in overlays])}


def read_payload(entry: Mapping[str, str]) -> tuple[Overlay, ...]:
    """Raises ProtocolError when the entry is not one of payload()."""
    try:
        items = json.loads(entry[FIELD])
        return tuple(Overlay(**{key: str(value) for key, value in item.items()}) for item in items)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ProtocolError(f"A journal entry about overlays cannot be read: {error!r}.") from error


def undo_on_host(virsh: Virsh, uuid: str, overlays: Sequence[Overlay]) -> str:
    """Shell text for Watched.undo_more: the host merges by itself when we vanish."""
    words = ["sh", "-c", _script(), "merge", *_arguments(virsh, uuid, overlays)]
    return f"undo_more() {{ errors=$({shlex.join(words)} 2>&1); }}\n"


def merge(virsh: Virsh, uuid: str, name: str, overlays: Sequence[Overlay]) -> str:
    """Merge all overlays back and remove them. Idempotent. Returns what the user should know, or "".

    Raises HostError when one is left: the guest goes on working on it, nothing is lost.
    """
    host = virsh.machine.name
    done = virsh.machine.script(
        _script(), _arguments(virsh, uuid, overlays), timeout=MERGE_SECONDS, check=False
    )
    lines = done.text.splitlines()
    if "gone" in lines:
        kept = ", ".join(overlay.file for overlay in overlays)
        return f"{name} is no guest of {host} any more; if they exist, its last changes are in {kept}."
    problems = []
    for overlay in overlays:
        said = next((line for line in lines if line.startswith(f"{overlay.disk} ")), "")
        _, _, answer = said.partition(" ")
        if answer == "off":
            _merge_while_off(virsh, uuid, name, overlay)
        elif answer not in ("merged", "unused"):
            problems.append(
                f"{overlay.disk}: {answer.removeprefix('left ') or done.errors[:200] or 'no answer'}"
            )
    if problems:
        raise HostError(
            f"{name} on {host} still runs on an overlay of the backup: {'; '.join(problems)}",
            hint="Nothing is lost. Later: vmconsole doctor --clean, or on the host: "
            f"virsh blockcommit {uuid} {overlays[0].disk} --shallow --active --pivot --wait",
            subject=host,
        )
    return ""


def _merge_while_off(virsh: Virsh, uuid: str, name: str, overlay: Overlay) -> None:
    """The order makes a death at any point harmless: the overlay's contents stay the same until it goes."""
    document = parse(virsh.run("dumpxml", uuid, "--inactive", "--security-info"), "domain")
    disk = _disk_on(document, overlay)
    if disk is None:
        raise HostError(
            f"{name} is off and has a snapshot on top of the backup's overlay {overlay.file}.",
            hint="Start it, then: vmconsole doctor --clean",
            subject=virsh.machine.name,
        )
    try:
        _merge_bitmaps(virsh, overlay)
        # Takes QEMU's locks on both files: it fails when the guest has been started.
        virsh.machine.run(
            ["qemu-img", "commit", "-q", "-d", "-f", "qcow2", "-b", overlay.base, "--", overlay.file],
            timeout=MERGE_SECONDS,
        )
    except CommandFailed as error:
        raise HostError(
            f"{name} is off and its overlay {overlay.file} could not be merged: "
            f"{error.stderr or error.message}",
            hint="Nothing is lost. Later: vmconsole doctor --clean",
            subject=virsh.machine.name,
        ) from error
    _put_back(disk, overlay)
    virsh.run("define", "/dev/stdin", stdin=tostring(document, encoding="utf-8"))
    left = virsh.run("dumpxml", uuid) + virsh.run("dumpxml", uuid, "--inactive")
    if names.base_name(overlay.file) in left:
        raise HostError(
            f"{name} was started while its overlay {overlay.file} was merged.",
            hint="Nothing is lost. Now: vmconsole doctor --clean",
            subject=virsh.machine.name,
        )
    virsh.machine.run(["rm", "-f", "--", overlay.file])


def _merge_bitmaps(virsh: Virsh, overlay: Overlay) -> None:
    """What the overlay's bitmaps recorded becomes part of those below; a bitmap that would lack a part goes.

    A bitmap that records notes the writes of `qemu-img commit` too; one that does not record would call
    them clean. Merging is right for both.
    """
    above, below = _bitmaps(virsh, overlay.file, "qcow2"), _bitmaps(virsh, overlay.base, overlay.format)
    image = ["-f", "qcow2", overlay.base]
    for name in below:
        twin = above.get(name)
        if twin is not None and not twin.in_use and not twin.inconsistent and not below[name].inconsistent:
            merged = ["--merge", name, "-b", overlay.file, "-F", "qcow2", *image, name]
            virsh.machine.run(["qemu-img", "bitmap", *merged])
        elif twin is not None or names.is_ours(name):
            virsh.machine.run(["qemu-img", "bitmap", "--remove", *image, name])


def _bitmaps(virsh: Virsh, path: str, image_format: str) -> dict[str, ImageBitmap]:
    done = virsh.machine.run(["qemu-img", "info", "-f", image_format, "--output=json", "--", path])
    return {item.name: item for item in parse_info(done.text).bitmaps}


def _disk_on(document: Element, overlay: Overlay) -> Element | None:
    for disk in document.iterfind("devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        if target is not None and source is not None and target.get("dev") == overlay.disk:
            return disk if source.get("file") == overlay.file else None
    return None


def _put_back(disk: Element, overlay: Overlay) -> None:
    """As the definition was before the overlay."""
    for part in (*disk.findall("source"), *disk.findall("backingStore")):
        disk.remove(part)
    disk.set("type", overlay.kind)
    driver = disk.find("driver")
    if driver is not None:
        driver.set("type", overlay.format)
    disk.append(parse(overlay.source, "source"))


def source_element(inactive_xml: str, disk: str) -> str:
    """The `<source>` of a disk in a definition, as text. Raises ProtocolError."""
    for element in parse(inactive_xml, "domain").iterfind("devices/disk"):
        target, source = element.find("target"), element.find("source")
        if target is not None and target.get("dev") == disk and source is not None:
            source.tail = None
            return tostring(source, encoding="unicode", short_empty_elements=False)
    raise ProtocolError(f"The definition of the guest has no disk {disk} with a source.")


def _arguments(virsh: Virsh, uuid: str, overlays: Sequence[Overlay]) -> list[str]:
    return [virsh.uri, uuid, *(word for item in overlays for word in (item.disk, item.file))]


@cache
def _script() -> str:
    return files("vmconsole.hypervisors.libvirt").joinpath("merge.sh").read_text("utf-8")
