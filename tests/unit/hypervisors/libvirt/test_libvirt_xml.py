from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.libvirt import xml

RECORDED = Path(__file__).parent / "recorded"


def domain(disks: str = "", more: str = "", attributes: str = "") -> str:
    return (
        f"<domain type='kvm'{attributes}><name>web</name><uuid>c65fe78e-c6ce-4704-9bb3-2fd993e4a2d7</uuid>"
        f"{more}<devices>{disks}</devices></domain>"
    )


def disk(
    inner: str = "", *, kind: str = "file", device: str = "disk", source: str = "<source file='/i/a'/>"
) -> str:
    return (
        f"<disk type='{kind}' device='{device}'><driver name='qemu' type='qcow2'/>{source}"
        f"<target dev='vda' bus='virtio'/>{inner}</disk>"
    )


def only(text: str) -> xml.DiskXml:
    (found,) = xml.parse_domain(text).disks
    return found


def test_a_recorded_running_domain() -> None:
    found = xml.parse_domain((RECORDED / "domain.xml").read_text())

    assert (found.name, found.domain_id, found.agent) == ("labA1", 3, True)
    assert found.agent_folder == "domain-3-labA1"
    assert found.title == "lab #prod #web"
    assert found.tags == ("a", "b", "prod", "web")
    assert [(item.id, item.format, item.source, item.refusal) for item in found.disks] == [
        ("vda", "qcow2", "/var/lib/libvirt/images/labA1-a.qcow2", ""),
        ("vdb", "qcow2", "/var/lib/libvirt/images/labA1-b.qcow2", ""),
        ("vdc", "raw", "/var/lib/libvirt/images/labA1-c.raw", ""),
        ("sda", "raw", "", "CD-ROM"),
    ]


def test_warnings_around_the_document_are_ignored() -> None:
    text = f"warning: something\n\n{domain()}\n\nDisconnected\n"
    assert xml.parse_domain(text).name == "web"


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (disk(device="cdrom"), "CD-ROM"),
        (disk(device="floppy"), "floppy"),
        (disk(device="lun"), "SCSI passthrough"),
        (disk("<shareable/>"), "shareable"),
        (disk("<transient/>"), "transient"),
        (disk("<readonly/>"), "read-only"),
        (disk(source=""), "no medium"),
        (disk(kind="vhostuser"), "outside QEMU"),
        (disk(kind="dir"), "outside QEMU"),
        (disk(), ""),
        (disk(kind="block", source="<source dev='/dev/vg/lv'/>"), ""),
        (disk(kind="network", source="<source protocol='rbd' name='pool/img'/>"), ""),
    ],
)
def test_disks_that_are_left_out_say_why(text: str, refusal: str) -> None:
    found = only(domain(text))
    assert refusal in found.refusal
    assert bool(found.refusal) == bool(refusal)


def test_sources_of_all_kinds() -> None:
    assert only(domain(disk(kind="block", source="<source dev='/dev/vg/lv'/>"))).source == "/dev/vg/lv"
    network = only(domain(disk(kind="network", source="<source protocol='rbd' name='pool/img'/>")))
    assert network.source == "rbd:pool/img"
    volume = only(domain(disk(kind="volume", source="<source pool='default' volume='web.qcow2'/>")))
    assert (volume.pool, volume.volume) == ("default", "web.qcow2")
    assert only(domain(disk("<encryption format='luks'/>"))).encrypted


@pytest.mark.parametrize(
    ("disks", "threaded"),
    [
        (
            "<disk type='file'><driver type='raw' iothread='1'/><source file='/a'/>"
            "<target dev='vda' bus='virtio'/></disk>",
            True,
        ),
        (
            "<disk type='file'><driver type='raw'><iothreads><iothread id='1'/></iothreads></driver>"
            "<source file='/a'/><target dev='vda' bus='virtio'/></disk>",
            True,
        ),
        (
            "<disk type='file'><driver type='raw'/><source file='/a'/><target dev='sda' bus='scsi'/>"
            "<address type='drive' controller='1'/></disk>"
            "<controller type='scsi' index='1' model='virtio-scsi'><driver iothread='2'/></controller>",
            True,
        ),
        (
            "<disk type='file'><driver type='raw'/><source file='/a'/><target dev='sda' bus='scsi'/>"
            "<address type='drive' controller='0'/></disk>"
            "<controller type='scsi' index='1' model='virtio-scsi'><driver iothread='2'/></controller>",
            False,
        ),
        (disk(), False),
    ],
)  # fmt: skip
def test_iothreads_of_disks_and_of_their_controllers(disks: str, threaded: bool) -> None:
    assert only(domain(disks)).iothread is threaded


def test_tags_from_metadata_and_title_but_not_from_other_namespaces() -> None:
    metadata = (
        "<metadata><vmc:tags xmlns:vmc='https://vmconsole.example/1'>prod, web</vmc:tags>"
        "<x:tags xmlns:x='urn:other'>theirs</x:tags><tags>plain</tags></metadata>"
        "<title>The #web and #db</title>"
    )
    assert xml.parse_domain(domain(more=metadata)).tags == ("prod", "web", "plain", "db")


def test_firmware_variables_tpm_and_passthrough() -> None:
    found = xml.parse_domain(
        domain("<tpm model='tpm-crb'/><hostdev mode='subsystem'/>", more="<os><nvram>/n/web.fd</nvram></os>")
    )
    assert (found.nvram, found.tpm, found.passthrough, found.has_agent_channel) == (
        "/n/web.fd",
        True,
        True,
        False,
    )


def test_a_recorded_checkpoint_and_one_with_a_broken_bitmap() -> None:
    text = (RECORDED / "checkpoint.xml").read_text()
    found = xml.parse_checkpoint(text)
    assert found.name == "vmconsole-deadbeef-1"
    assert found.created == 1795422690
    assert found.disks == ("vda", "vdb")
    assert found.dirty == {"vda": 0, "vdb": 0}
    assert xml.parse_checkpoint(text.replace(" size='0'", "", 1)).dirty == {"vdb": 0}


def test_a_recorded_backup_job() -> None:
    text = (RECORDED / "backup.xml").read_text()
    assert xml.backup_socket(text) == "/var/lib/libvirt/qemu/domain-3-labA1/vmconsole-x.sock"
    assert xml.backup_files(text) == ["/var/lib/libvirt/images/vmconsole-1.scratch"]
    disk = "<disk name='vda'><target file='/t/a'/></disk>"
    push = f"<domainbackup mode='push'><disks>{disk}</disks></domainbackup>"
    assert xml.backup_socket(push) == "/t/a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "error: failed to get domain",
        "<domain></domain>",
        "<domain><name>x</name></domain>",
        "<domain><name>x</domain>",
        "</domain><domain>",
        "<domain>&bomb;</domain>",
        domain(more="<!DOCTYPE x [<!ENTITY a 'b'>]>"),
        domain("<disk><target dev='x'/></disk>" * (xml.MAX_DISKS + 1)),
    ],
    ids=range(9),
)
def test_nonsense_is_a_protocol_error(text: str) -> None:
    with pytest.raises(ProtocolError):
        xml.parse_domain(text)


def test_deep_nesting_is_harmless() -> None:
    assert xml.parse_domain(domain(more="<a>" * 100_000 + "</a>" * 100_000)).name == "web"


def test_entities_are_refused_even_when_declared() -> None:
    bomb = (
        "<!DOCTYPE domain [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]>"
        "<domain><name>&b;</name><uuid>x</uuid></domain>"
    )
    with pytest.raises(ProtocolError):
        xml.parse_domain(bomb)


def test_a_document_beyond_the_cap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml, "MAX_XML", 100)
    with pytest.raises(ProtocolError, match="larger"):
        xml.parse_domain(domain(disk()))


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "١٢", " 7 ", "0x10", ""])
def test_numbers_are_read_without_surprises(number: str) -> None:
    text = f"<domaincheckpoint><name>x</name><creationTime>{number}</creationTime></domaincheckpoint>"
    assert xml.parse_checkpoint(text).created == (7 if number == " 7 " else 0)


@given(st.text(), st.sampled_from(["domain", "domaincheckpoint", "domainbackup"]))
def test_any_text_parses_or_is_a_protocol_error(text: str, root: str) -> None:
    parsers = {
        "domain": xml.parse_domain,
        "domaincheckpoint": xml.parse_checkpoint,
        "domainbackup": xml.backup_socket,
    }
    with contextlib.suppress(ProtocolError):
        parsers[root](f"<{root}>{text}</{root}>")


_names = st.sampled_from(
    [
        "domain",
        "name",
        "uuid",
        "devices",
        "disk",
        "target",
        "source",
        "driver",
        "address",
        "channel",
        "metadata",
        "tags",
    ]
)


_attributes = st.dictionaries(
    st.sampled_from(["dev", "type", "file", "bus", "id", "name"]), st.text("ab1/<&'", max_size=4)
)
_leaves = st.tuples(_names, _attributes, st.just([]))


@given(
    st.recursive(
        _leaves, lambda inner: st.tuples(_names, _attributes, st.lists(inner, max_size=4)), max_leaves=20
    )
)
def test_any_tree_parses_or_is_a_protocol_error(tree: Any) -> None:
    root = Element("domain")
    SubElement(root, "name").text = "x"
    SubElement(root, "uuid").text = "y"
    add(root, tree)
    with contextlib.suppress(ProtocolError):
        xml.parse_domain(tostring(root, encoding="unicode"))


def add(parent: Element, tree: Any) -> None:
    name, attributes, children = tree
    element = SubElement(parent, name, attributes)
    for child in children:
        add(element, child)
