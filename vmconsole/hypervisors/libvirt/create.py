"""From a restore point to a guest on a host: everything that is checked before a byte moves.

What is made then, and how it is taken back, is in target.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from uuid import UUID, uuid4

from vmconsole.errors import CommandFailed, RestoreFailed
from vmconsole.hypervisors.libvirt import members, names, storage, survey
from vmconsole.hypervisors.libvirt.devicexml import NewDisk
from vmconsole.hypervisors.libvirt.domainxml import Identity, parse_archived, rewrite, wants
from vmconsole.hypervisors.libvirt.foreign import HYPERVISOR, ForeignTarget, translate
from vmconsole.hypervisors.libvirt.target import Layout, LibvirtTarget, Making
from vmconsole.hypervisors.libvirt.virsh import Virsh
from vmconsole.interfaces import Context, GuestRestore, GuestTarget
from vmconsole.model.point import DiskPoint, RestorePoint

NVRAM_FOLDER = "/var/lib/libvirt/qemu/nvram"


def create_guest(
    virsh: Virsh,
    point: RestorePoint,
    files: Mapping[str, bytes],
    request: GuestRestore,
    context: Context,
    *,
    networks: Mapping[str, str] | None = None,
    new_uuid: Callable[[], UUID] = uuid4,
    new_token: Callable[[], str] = lambda: secrets.token_hex(6),
    only_check: bool = False,
) -> GuestTarget:
    """Check everything, then make empty disks. See Hypervisor.create.

    networks: where cards of a Proxmox guest go. only_check: make nothing, for the notes alone. Raises
    GuestExists, RestoreFailed before anything was changed.
    """
    if point.hypervisor != HYPERVISOR:
        return _create(virsh, point, files, request, context, new_uuid, new_token, only_check=only_check)
    survey.check_name(virsh, request.name)
    foreign = translate(virsh, point, files, networks or {})
    target = _create(
        virsh, foreign.point, foreign.files, request, context, new_uuid, new_token, only_check=only_check
    )
    return ForeignTarget(target, foreign)


def _create(
    virsh: Virsh,
    point: RestorePoint,
    files: Mapping[str, bytes],
    request: GuestRestore,
    context: Context,
    new_uuid: Callable[[], UUID],
    new_token: Callable[[], str],
    *,
    only_check: bool,
) -> LibvirtTarget:
    document = files.get(members.DOMAIN)
    if document is None:
        raise RestoreFailed(
            f"{point.archive} holds no libvirt definition ({members.DOMAIN}).",
            hint="Restore its disks with --to FOLDER and define a guest around them.",
            subject=point.archive,
        )
    survey.check_name(virsh, request.name)
    domain = parse_archived(document)
    needed = wants(domain)
    surveyed = survey.look(virsh, needed)
    disks = [disk for disk in point.stored_disks if disk.id in needed.disks]
    _all_disks_known(point, disks)
    nvram = files.get(members.NVRAM) if needed.nvram else None
    layout = _lay_out(virsh, request, disks, nvram is not None, str(new_uuid()), new_token())
    identity = Identity(request.name, layout.making.uuid, layout.nvram)
    rewritten = rewrite(domain, identity, layout.disks, surveyed.offers)
    # A trial run through libvirt's own parser and QEMU driver; nothing is defined by it.
    _try_definition(virsh, rewritten.document, request.name)
    if request.start:
        _check_networks(rewritten.networks, surveyed.offers.networks, virsh.machine.name)
    target = LibvirtTarget(
        virsh=virsh,
        layout=layout,
        disks=disks,
        document=rewritten.document,
        notes=(*surveyed.notes, *layout.notes, *rewritten.notes),
        request=request,
        context=context,
    )
    if not only_check:
        target.make(nvram)
    return target


def _all_disks_known(point: RestorePoint, disks: Sequence[DiskPoint]) -> None:
    known = {disk.id for disk in disks}
    strange = [disk.id for disk in point.stored_disks if disk.id not in known]
    if strange:
        raise RestoreFailed(
            f"The definition in {point.archive} does not mention its disks {', '.join(strange)}.",
            hint="Restore its disks with --to FOLDER and define a guest around them.",
            subject=point.archive,
        )


def _lay_out(
    virsh: Virsh,
    request: GuestRestore,
    disks: Sequence[DiskPoint],
    nvram: bool,
    uuid: str,
    token: str,
) -> Layout:
    place = storage.find(virsh, request.storage)
    base = names.plain(request.name)
    variables = [f"{base}_VARS.fd"] if nvram else []
    chosen = [storage.format_for(disk, place) for disk in disks]
    formats = [image_format for image_format, _ in chosen]
    notes = [note for _, note in chosen if note]
    stems = [f"{base}-{names.plain(disk.id)}" for disk in disks]
    volumes: list[str] = []
    if place.folder:
        wanted = [f"{stem}.{image_format}" for stem, image_format in zip(stems, formats, strict=True)]
        looked = storage.look(virsh.machine, place, [*wanted, *variables], disks)
        found = [
            NewDisk(path, image_format)
            for path, image_format in zip(looked.paths[: len(disks)], formats, strict=True)
        ]
    else:
        notes += storage.check_space(virsh.machine.name, place.pool, place.free, disks)
        volumes = [f"{stem}-{token}" for stem in stems]
        found = [NewDisk(f"{place.devices}/{volume}", "raw", "block") for volume in volumes]
        looked = storage.look(virsh.machine, storage.Storage(NVRAM_FOLDER), variables, ())
    making = Making(
        uri=virsh.uri,
        name=request.name,
        uuid=uuid,
        files=tuple((_hidden(path, token), path) for path in looked.paths),
        pool=place.pool,
        volumes=tuple(volumes),
    )
    return Layout(
        making=making,
        disks={disk.id: new for disk, new in zip(disks, found, strict=True)},
        storage=place,
        nvram=looked.paths[-1] if nvram else "",
        notes=(*notes, *looked.notes),
    )


def _hidden(path: str, token: str) -> str:
    """The second name of a new file, see target.py."""
    folder, _, _ = path.rpartition("/")
    return f"{folder}/.{names.PREFIX}{token}-{secrets.token_hex(4)}"


def _try_definition(virsh: Virsh, document: bytes, name: str) -> None:
    try:
        virsh.run("domxml-to-native", "qemu-argv", "--xml", "/dev/stdin", stdin=document)
    except CommandFailed as error:
        raise RestoreFailed(
            f"{virsh.machine.name} cannot run {name} as it was archived: {error.message}",
            hint="Restore it to another host, or its disks alone with --to FOLDER.",
            subject=name,
        ) from error


def _check_networks(used: Collection[str], known: Mapping[str, bool], host: str) -> None:
    """A guest that shall be started needs its networks now; better said before hours of copying."""
    for network in sorted(used):
        if not known.get(network, False):
            raise RestoreFailed(
                f"The network {network!r} on {host} is not active; the guest could not be started.",
                hint=f"On the host: virsh net-start {network}, or restore without starting.",
                subject=host,
            )
