import io
from pathlib import Path

import msgpack
import numpy as np
import pytest

from qrt_tn.models.moe.checkpoints.msgpack_reader import MsgpackReader, opened

PATH = Path("some.index")


def reader_of(data):
    return MsgpackReader(io.BytesIO(data), PATH)


def read(reader):
    """Any object, by the reader alone."""
    kind = reader.kind()
    if kind == "array":
        return [read(reader) for _ in range(reader.array())]
    if kind == "map":
        return {read(reader): read(reader) for _ in range(reader.map())}
    if kind == "bin":
        with reader.binary() as length:
            found = bytearray(length)
            reader.read_into(memoryview(found))
        return bytes(found)
    if kind == "ext":
        code = reader.code()
        start = reader.at
        with reader.extension((code,)) as same:
            assert same == code
            found = read(reader)
        assert reader.at > start
        return msgpack.ExtType(code, msgpack.packb(found))
    simple = {
        "nil": reader.nil,
        "bool": reader.boolean,
        "int": reader.integer,
        "float": reader.real,
        "str": reader.text,
    }
    return simple[kind]()


def something(rng, depth=0):
    kind = int(rng.integers(10 if depth < 3 else 7))
    simple = {
        0: lambda: [None, True, False][rng.integers(3)],
        1: lambda: int(rng.integers(-(2**63), 2**63 - 1)) >> int(rng.integers(64)),
        2: lambda: int(rng.integers(-300, 300)),
        3: lambda: float(rng.normal()),
        4: lambda: "ü" * int(rng.choice([0, 1, 15, 16, 127, 128, 500])),
        5: lambda: rng.bytes(int(rng.choice([0, 1, 255, 256, 65535, 65536]))),
    }
    if kind in simple:
        return simple[kind]()
    if kind == 6:
        return msgpack.ExtType(
            int(rng.integers(0, 128)), msgpack.packb(rng.bytes(int(rng.choice([0, 2, 6, 14, 300]))))
        )
    length = int(rng.choice([0, 1, 15, 16, 20]))
    if kind == 7:
        return {str(i): something(rng, depth + 1) for i in range(length)}
    return [something(rng, depth + 1) for _ in range(length)]


@pytest.mark.parametrize("seed", range(60))
def test_it_reads_what_msgpack_writes(seed):
    rng = np.random.default_rng(seed)
    value = [something(rng) for _ in range(5)]
    data = msgpack.packb(value, use_single_float=bool(seed % 2))
    wanted = msgpack.unpackb(data, strict_map_key=False)
    reader = reader_of(data)
    assert read(reader) == wanted
    reader.finish()
    reader.go_to(0)
    reader.pass_over()
    reader.finish()


@pytest.mark.parametrize(
    "value", [[0] * 70_000, {i: i for i in range(70_000)}, 2**64 - 1, -(2**63), -1, -32, -33]
)
def test_large_ones(value):
    reader = reader_of(msgpack.packb(value))
    assert read(reader) == value
    reader.finish()


@pytest.mark.parametrize(
    ("value", "wrong"), [(1, "text"), ("a", "integer"), (True, "integer"), (1.0, "integer")]
)
def test_another_kind_is_refused(value, wrong):
    with pytest.raises(ValueError, match=r"some\.index: .* in place of"):
        getattr(reader_of(msgpack.packb(value)), wrong)()


def test_what_is_inside_stays_inside():
    # the inner text says that it goes on beyond the run of bytes that it is in
    data = msgpack.packb([b"\xa5ab", "cd"])
    reader = reader_of(data)
    reader.array(2)
    with pytest.raises(ValueError, match="takes 5 bytes where 2 are left"), reader.binary():
        reader.text()
    reader = reader_of(data)
    reader.array(2)
    with pytest.raises(ValueError, match="2 bytes that belong to nothing"), reader.binary():
        reader.skip(1)


def test_a_text_must_be_one():
    with pytest.raises(ValueError, match="not UTF-8"):
        reader_of(b"\xa2\xff\xff").text()


def test_a_file_cut_while_it_is_read(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(msgpack.packb(bytes(100_000)))
    with (
        opened(path) as reader,
        pytest.raises(ValueError, match="m: the file ends"),
        reader.binary() as length,
    ):
        with path.open("r+b") as file:
            file.truncate(50_000)
        reader.read_into(memoryview(bytearray(length)))
