"""IDX and npz files: what is in them, and what is refused."""

import gzip
import struct
import zipfile

import numpy as np
import pytest

from qrt_tn.models import read_idx, tables
from qrt_tn.models.array_files import read_npz
from tests.models.conftest import packed

RNG = np.random.default_rng(0)
TWELVE = packed(np.zeros((3, 4), np.uint8))
ALL_MEMORY = b"\0\0\x08\x03" + b"\xff" * 12


def refusal(call, path):
    """What a call refuses its file with: one line that names it."""
    with pytest.raises(ValueError) as refused:
        call()
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
    "content",
    [
        b"",
        b"\0\0\x0d\x01" + struct.pack(">I", 1) + b"\0\0\0\0",
        b"\0\0\x08\x03\0\0",
        b"\0\0\x08\xff" + struct.pack(">255I", *[1] * 255) + b"x",
        b"\0\0\x08\x02" + struct.pack(">2I", 0, 2**32 - 1),
        TWELVE[:-1],
        TWELVE + b"x",
        ALL_MEMORY,
    ],
)
def test_other_idx_files_are_refused(tmp_path, content):
    path = tmp_path / "images"
    for part in (content, gzip.compress(content, mtime=0), gzip.compress(TWELVE, mtime=0)[:-9]):
        path.write_bytes(part)
        refusal(lambda: read_idx(path), path)
    refusal(lambda: read_idx(tmp_path / "absent"), tmp_path / "absent")


@pytest.mark.parametrize("squeezed", [True, False])
def test_more_than_a_quarter_of_the_free_memory_is_refused(tmp_path, monkeypatch, squeezed):
    monkeypatch.setattr(tables, "memory_limit", lambda: 400)
    idx, npz = tmp_path / "images", tmp_path / "some.npz"
    for size in (250, 401):
        content = packed(np.zeros(size, np.uint8))
        idx.write_bytes(gzip.compress(content, mtime=0) if squeezed else content)
        (np.savez_compressed if squeezed else np.savez)(npz, x=np.zeros(size, np.uint8))
        if size == 250:
            assert len(read_idx(idx)) == len(read_npz(npz, lambda names: names)["x"]) == 250
    assert "a quarter of the free" in refusal(lambda: read_idx(idx), idx)
    assert "a quarter of the free" in refusal(lambda: read_npz(npz, lambda names: names), npz)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_chosen_arrays_are_read_and_all_names_told(tmp_path, save):
    held = {"a": np.arange(3), "b": RNG.normal(size=(2, 3)).T, "c": np.array("text"), "d": np.zeros((0, 2))}
    save(tmp_path / "some.npz", **held)
    arrays = read_npz(tmp_path / "some.npz", lambda names: names[1:])
    assert list(arrays) == ["b", "c", "d"]
    assert all(np.array_equal(arrays[name], held[name]) for name in arrays)
    with pytest.raises(ValueError, match=r"some\.npz has no array 'absent'; it holds a, b, c, d"):
        read_npz(tmp_path / "some.npz", lambda names: ["b", "absent"])


def npy(header, values=b"", version=1, length=None):
    """An npy file of a header that NumPy would not write."""
    text = header if isinstance(header, bytes) else repr(header).encode()
    size = (len(text) if length is None else length).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + values


def described(shape, descr="<f8"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


@pytest.mark.parametrize(
    "content",
    [
        b"no array",
        npy(described((2**50,))),
        npy(described((2**40, 2**40))),
        npy(described((-2, -3)), bytes(48)),
        npy(described((9,)), bytes(64)),
        npy(described((9,)), bytes(81)),
        npy(described((3,), "|O"), bytes(24)),
        npy(b"(" * 300),
        npy(b"-" * 2_000 + b"1"),
        npy(b"{[]: 1}"),
        npy(b" " * 60_000),
        npy(b"", version=2, length=2**32 - 1),
        npy(described((1,)), version=9),
    ],
)
def test_members_that_are_no_arrays_are_refused(tmp_path, content):
    path = tmp_path / "bad.npz"
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a.npy", content)
        refusal(lambda: read_npz(path, lambda names: ["a"]), path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_torn_or_damaged_npz_file_is_read(tmp_path, save):
    path = tmp_path / "mine.npz"
    x = RNG.integers(256, size=(12, 5), dtype=np.uint8)
    save(path, x=x)
    whole = path.read_bytes()
    for length in range(0, len(whole), 53):
        path.write_bytes(whole[:length])
        refusal(lambda: read_npz(path, lambda names: ["x"]), path)
    for at in range(0, len(whole), 13):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        try:
            found = read_npz(path, lambda names: {"x"} & {*names})
        except ValueError as error:
            assert str(path) in str(error)
        else:  # a byte that tells nothing, such as the date, or the name
            assert np.array_equal(found.get("x", x), x)
