"""IDX and npz files: what is in them, and what is refused in bounded memory."""

import gzip
import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from qrt_tn.models import read_idx, tables
from qrt_tn.models.array_files import read_npz
from tests.models.conftest import packed

RNG = np.random.default_rng(0)
TWELVE = packed(np.zeros((3, 4), np.uint8))
ZIPPED = gzip.compress(packed(RNG.integers(256, size=500).astype(np.uint8)), mtime=0)
ALL_MEMORY = b"\0\0\x08\x03" + b"\xff" * 12


def refusal(call, path):
    """What a call refuses its file with: one line that names it, within 5 MB of memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as refused:
            call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_idx_arrays_come_back(tmp_path, shape):
    array = RNG.integers(256, size=shape, dtype=np.uint8)
    for content in (packed(array), gzip.compress(packed(array), mtime=0)):
        (tmp_path / "images").write_bytes(content)
        found = read_idx(tmp_path / "images")
        assert found.dtype == np.uint8
        assert np.array_equal(found, array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x0d\x01" + struct.pack(">I", 1) + b"\0\0\0\0", "not an IDX file of unsigned bytes"),
        (b"\0\0\x08\x03\0\0", "ends within its header"),
        (b"\0\0\x08\xff" + struct.pack(">255I", *[1] * 255) + b"x", "has 255 axes"),
        (b"\0\0\x08\x02" + struct.pack(">2I", 0, 2**32 - 1), "no values"),
        (TWELVE[:-1], "holds 11 values, not (3, 4)"),
        (TWELVE + b"x", "holds more values, not (3, 4)"),
        (gzip.compress(TWELVE + bytes(20_000_000), mtime=0), "holds more values, not (3, 4)"),
        (ALL_MEMORY, "promises (4294967295, 4294967295, 4294967295)"),
        (gzip.compress(ALL_MEMORY + bytes(1000), mtime=0), "more than it can hold"),
        (gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 10**8), mtime=0), "promises"),
        (ZIPPED[:60] + bytes(255 - byte for byte in ZIPPED[60:70]) + ZIPPED[70:], "not a whole gzip file"),
    ],
)
def test_other_idx_files_are_refused(tmp_path, content, message):
    (tmp_path / "images").write_bytes(content)
    assert message in refusal(lambda: read_idx(tmp_path / "images"), tmp_path / "images")
    assert "no file" in refusal(lambda: read_idx(tmp_path / "absent"), tmp_path / "absent")


@pytest.mark.parametrize("squeezed", [True, False])
def test_more_than_a_quarter_of_the_free_memory_is_refused(tmp_path, monkeypatch, squeezed):
    monkeypatch.setattr(tables, "memory_limit", lambda: 250)
    idx, npz = tmp_path / "images", tmp_path / "some.npz"
    for size in (250, 251):
        content = packed(np.zeros(size, np.uint8))
        idx.write_bytes(gzip.compress(content, mtime=0) if squeezed else content)
        (np.savez_compressed if squeezed else np.savez)(npz, x=np.zeros(size, np.uint8))
        if size == 250:
            assert len(read_idx(idx)) == len(read_npz(npz, lambda names: names)["x"]) == 250
    assert "(251,) takes" in refusal(lambda: read_idx(idx), idx)
    assert "a quarter of the free" in refusal(lambda: read_npz(npz, lambda names: names), npz)


@pytest.mark.parametrize("squeezed", [True, False])
def test_chosen_arrays_are_read_and_all_names_told(tmp_path, squeezed):
    held = {"a": np.arange(3), "b": RNG.normal(size=(2, 3)).T, "c": np.array("text"), "d": np.zeros((0, 2))}
    (np.savez_compressed if squeezed else np.savez)(tmp_path / "some.npz", **held)
    arrays = read_npz(tmp_path / "some.npz", lambda names: names[1:])
    assert list(arrays) == ["b", "c", "d"]
    with pytest.raises(ValueError, match=r"some\.npz has no array 'absent'; it holds a, b, c, d"):
        read_npz(tmp_path / "some.npz", lambda names: ["b", "absent"])
    assert all(np.array_equal(arrays[name], held[name]) for name in arrays)


def npy(header, values=b"", version=1, length=None):
    """An npy file of a header that NumPy would not write."""
    text = header if isinstance(header, bytes) else repr(header).encode()
    width = 2 if version == 1 else 4
    size = (len(text) if length is None else length).to_bytes(width, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + values


def described(shape, descr="<f8"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", "not a whole npz"),
        (b"", "not a whole npz"),
        (npy(described((2**50,))), "takes"),
        (npy(described((-2, -3)), bytes(48)), "takes"),
        (npy(described((9,)), bytes(81)), "takes 72 bytes, but 81 are there"),
        (npy(described((3,), "|O"), bytes(24)), "pickled"),
        (npy(b"(" * 300), "not a whole npz"),
        (npy(b"-" * 2_000 + b"1"), "not a whole npz"),
        (npy(b"{[]: 1}"), "not a whole npz"),
        (npy(b" " * 60_000), "a header of 60000 bytes"),
        (npy(b" " * 20_000_000, version=2), "a header of 20000000 bytes"),
        (npy(b"", version=2, length=2**32 - 1), "a header of 4294967295 bytes"),
        (npy(described((1,)), version=9), "version"),
    ],
)
def test_members_that_are_no_arrays_are_refused(tmp_path, content, message):
    path = tmp_path / "bad.npz"
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a.npy", content)
        assert message in refusal(lambda: read_npz(path, lambda names: ["a"]), path)


def bent(path, offset, value):
    """Write another number over a field of the archive's directory, and of the member's own header."""
    content = bytearray(path.read_bytes())
    for start, place in ((b"PK\x03\x04", offset - 2), (b"PK\x01\x02", offset)):
        at = content.find(start) + place
        content[at : at + len(value)] = value
    path.write_bytes(content)


def test_archives_that_promise_something_else_are_refused(tmp_path):
    path = tmp_path / "odd.npz"

    def told():
        return refusal(lambda: read_npz(path, lambda names: ["x"]), path)

    np.save(tmp_path / "one.npy", np.eye(3))
    (tmp_path / "one.npy").rename(path)
    assert "npy file" in told()
    np.savez(path, x=np.eye(3))
    bent(path, 8, b"\x01\x00")
    assert "encrypted" in told()
    np.savez_compressed(path, x=np.zeros(10))
    bent(path, 24, struct.pack("<I", 2**31))
    assert "promises 2147483648 bytes, more than it can hold" in told()
    content = io.BytesIO()
    np.save(content, np.eye(3))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", content.getvalue())
    assert "method 14" in told()
    np.savez(path, x=np.eye(3))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x", b"")
    assert "named 'x'" in told()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_torn_or_damaged_npz_file_is_read(tmp_path, save):
    path = tmp_path / "mine.npz"
    x = RNG.integers(256, size=(12, 5), dtype=np.uint8)
    save(path, x=x)
    whole = path.read_bytes()
    for length in range(0, len(whole), 41):
        path.write_bytes(whole[:length])
        refusal(lambda: read_npz(path, lambda names: ["x"]), path)
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        try:
            found = read_npz(path, lambda names: {"x"} & {*names})
        except ValueError as error:
            assert str(path) in str(error)
        else:  # a byte that tells nothing, such as the date, or the name
            assert np.array_equal(found.get("x", x), x)
