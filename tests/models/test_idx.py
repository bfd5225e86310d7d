import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from qrt_tn.models import read_idx


def packed(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (300, 2)])
@pytest.mark.parametrize("squeezed", [True, False])
def test_arrays_come_back(tmp_path, shape, squeezed):
    array = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(packed(array), mtime=0) if squeezed else packed(array))
    found = read_idx(path)
    assert found.dtype == np.uint8
    assert np.array_equal(found, array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x0d\x01" + struct.pack(">I", 1) + b"\0\0\0\0", "not an IDX file of unsigned bytes"),
        (b"\0\0\x08\x03\0\0", "ends within its header"),
        (packed(np.zeros((3, 4), dtype=np.uint8))[:-1], r"holds 11 values, not \(3, 4\)"),
        (packed(np.zeros((3, 4), dtype=np.uint8)) + b"x", r"holds 13 values, not \(3, 4\)"),
        (gzip.compress(packed(np.zeros(9, dtype=np.uint8))[:-1], mtime=0), r"holds 8 values, not \(9,\)"),
        (gzip.compress(packed(np.zeros(9, dtype=np.uint8)) + b"x", mtime=0), r"more values than \(9,\)"),
        (b"\0\0\x08\x03" + b"\xff" * 12, r"holds 0 values, not \(4294967295, 4294967295, 4294967295\)"),
        (gzip.compress(packed(np.zeros(100, dtype=np.uint8)), mtime=0)[:20], "not a whole gzip file"),
    ],
    ids=[
        "empty",
        "of floats",
        "header cut",
        "values missing",
        "values left",
        "too few",
        "too many",
        "huge",
        "gzip cut",
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(path)


def peak(call):
    """The most bytes that Python held at once while a call was refused, and what it said."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as refused:
            call()
        return tracemalloc.get_traced_memory()[1], str(refused.value)
    finally:
        tracemalloc.stop()


def test_no_more_is_unpacked_than_the_header_promises(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(packed(np.zeros(100, dtype=np.uint8)) + bytes(50_000_000), mtime=0))
    most, said = peak(lambda: read_idx(path))
    assert said == f"{path} holds more values than (100,); it is not whole"
    assert most < 1_000_000


@pytest.mark.parametrize(("promised", "refused"), [(250, False), (251, True)])
def test_a_promise_beyond_a_quarter_of_the_free_memory_is_refused(tmp_path, monkeypatch, promised, refused):
    monkeypatch.setattr("qrt_tn.models.idx.memory_limit", lambda: 250)
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(packed(np.zeros(promised, dtype=np.uint8)), mtime=0))
    if refused:
        with pytest.raises(
            ValueError, match=r"images.gz promises \(251,\).*250 bytes, a quarter of the free"
        ):
            read_idx(path)
    else:
        assert read_idx(path).shape == (250,)


def test_a_promise_beyond_all_memory_is_refused_before_it_is_allocated(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12 + bytes(1000), mtime=0))
    most, said = peak(lambda: read_idx(path))
    assert "bomb.gz promises (4294967295, 4294967295, 4294967295), " in said
    assert most < 1_000_000


def test_a_file_damaged_inside_is_refused(tmp_path):
    content = bytearray(
        gzip.compress(packed(np.random.default_rng(0).integers(256, size=500).astype(np.uint8)), mtime=0)
    )
    content[60:70] = bytes(255 - byte for byte in content[60:70])
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a whole gzip file"):
        read_idx(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*absent.gz"):
        read_idx(tmp_path / "absent.gz")
