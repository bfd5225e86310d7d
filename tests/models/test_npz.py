import zipfile
from pathlib import Path

import numpy as np
import pytest

from qrt_tn.models.npz import read_npz


def test_chosen_arrays_are_read_and_all_names_told(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, a=np.arange(3), b=np.eye(2), c=np.array("text"))
    arrays, known = read_npz(path, lambda names: ["b", "absent"])
    assert known == ["a", "b", "c"]
    assert list(arrays) == ["b"]
    assert np.array_equal(arrays["b"], np.eye(2))


def test_members_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    huge = repr({"descr": "<f8", "fortran_order": False, "shape": (2**50,)}).encode().ljust(117) + b"\n"
    objects = tmp_path / "objects.npz"
    np.savez(objects, a=np.array([{}], dtype=object))
    for content in (b"no array", b"", header + huge):
        path = tmp_path / "bad.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", content)
        with pytest.raises(ValueError, match=r"bad\.npz is not a whole npz file"):
            read_npz(path, lambda names: ["a"])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"no array at all")
    with pytest.raises(ValueError, match="not a whole npz file"):
        read_npz(path, lambda names: ["a"])
    with pytest.raises(ValueError, match="not a whole npz file"):
        read_npz(objects, lambda names: ["a"])
