from __future__ import annotations

import io
import json
import tarfile

import pytest
import zstandard

from vmconsole.errors import ProtocolError
from vmconsole.runs.tarindex import FORMAT, IndexedStream, read_index


class Sink:
    bytes_stored = 0
    sha256 = ""

    def __init__(self):
        self.content = bytearray()

    @property
    def size(self):
        return len(self.content)

    def write(self, data):
        self.content += data

    def close(self):
        pass


def test_what_was_written_is_read_again():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for number in range(1200):
            info = tarfile.TarInfo(f"./etc/{number:04} ü")
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    tar_sink, index_sink = Sink(), Sink()
    stream = IndexedStream(tar_sink, index_sink)
    stream.write(packed.getvalue())
    stream.close()
    members = list(read_index(bytes(index_sink.content)))
    assert [member["path"] for member in members] == [f"./etc/{number:04} ü" for number in range(1200)]
    at = members[700]["data"]
    assert bytes(tar_sink.content[at : at + 3]) == b"abc"


def packed(*lines):
    return zstandard.ZstdCompressor().compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


@pytest.mark.parametrize(
    "data",
    [b"", b"no index", packed(), packed(FORMAT | {"version": 2}), packed({}), packed(FORMAT)[:-3]],
)
def test_what_is_no_index_of_ours_is_told(data):
    with pytest.raises(ProtocolError) as caught:
        list(read_index(data))
    assert "tar -t" in caught.value.hint


def test_a_line_that_is_no_json():
    data = zstandard.ZstdCompressor().compress(json.dumps(FORMAT).encode() + b"\n{broken\n")
    with pytest.raises(ProtocolError, match="cannot be read"):
        list(read_index(data))
