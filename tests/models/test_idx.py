import gzip
import struct

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
        (gzip.compress(packed(np.zeros(100, dtype=np.uint8)), mtime=0)[:20], "not a whole gzip file"),
    ],
    ids=["empty", "of floats", "header cut", "values missing", "gzip cut"],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(path)


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
