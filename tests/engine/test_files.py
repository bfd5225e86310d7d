import json
import re
import stat
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qrt_tn.engine.files import atomic_path, load_tensors, save_tensors


def test_replaced_whole_or_left_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(*, fail):
        with atomic_path(path) as partial:
            assert (partial.parent, partial.suffix) == (tmp_path, ".txt")
            partial.write_text("new")
            if fail:
                raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write(fail=True)
    assert path.read_text() == "old"
    write(fail=False)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    plain = tmp_path / "plain"
    plain.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def tensors():
    rng = np.random.default_rng(0)
    kinds = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
    kinds += ("float16", "float32", "float64", "complex64")
    made = {kind: rng.normal(size=(3, 5)).astype(kind).T for kind in kinds}
    odd = {"number": np.float64(2.5), "empty": np.zeros((0, 2)), "swapped": np.arange(3, dtype=">f8")}
    return made | odd | {"ω/list": [1, 2]}


def test_tensors_round_trip(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors(path, tensors(), {"format": "kind", "note": "ω"})
    loaded, metadata = load_tensors(path, "kind")
    assert metadata == {"format": "kind", "note": "ω"}
    for found in (loaded, load_file(path)):
        assert set(found) == set(tensors())
        for name, tensor in tensors().items():
            assert found[name].dtype == np.asarray(tensor).dtype.newbyteorder("=")
            np.testing.assert_array_equal(found[name], tensor, strict=name != "swapped")


def test_a_change_anywhere_is_noticed(tmp_path):
    """One bit, or the end: never other numbers, and never another error."""
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": np.arange(5.0), "b": np.arange(7, dtype=np.int8)}, {"format": "k", "note": "5"})
    whole = path.read_bytes()
    text = whole.rindex(b"}") + 1  # behind it only spaces up to the numbers
    changes = [whole[:-3], b"", whole + b"\0"]
    for place in [*range(text), *range(len(whole) - 47, len(whole))]:
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        changes.append(bytes(changed))
    for changed in changes:
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            load_tensors(path, "k")


def test_refusals(tmp_path):
    path = tmp_path / "t.safetensors"
    for call, told in (
        (partial(save_tensors, tmp_path / "nowhere" / "a", {}, {}), "nowhere"),
        (partial(save_tensors, tmp_path, {}, {}), "is a folder"),
        (partial(save_tensors, path, {"wide": np.zeros(1, complex)}, {}), "'wide' is complex128"),
        (partial(save_tensors, path, {"text": np.array(["a"])}, {}), "'text' is <U1"),
        (partial(load_tensors, path, "kind"), "no file"),
    ):
        with pytest.raises(ValueError, match=told):
            call()
    assert not list(tmp_path.iterdir())
    save_tensors(path, {"a": np.zeros(2)}, {})
    with pytest.raises(ValueError, match="of no named format; this reads 'kind'"):
        load_tensors(path, "kind")
    save_file({"a": np.zeros(2)}, path, {"format": "kind"})
    with pytest.raises(ValueError, match="checksum"):
        load_tensors(path, "kind")
    with pytest.raises(ValueError, match="give at most 16777216"):
        save_tensors(path, {"a": np.zeros(2)}, {"format": "kind", "note": "x" * 2**24})


def write_header(path, header, size=0):
    """A file of this header and of so many bytes of tensors, which take no place on the disk."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)


@pytest.mark.parametrize("known", [False, True])
def test_the_header_alone_decides(tmp_path, known):
    """Of 4 GB of tensors that are foreign, or of types that NumPy lacks, none is read."""
    path = tmp_path / "t.safetensors"
    metadata = {"__metadata__": {"format": "kind"}} if known else {"__metadata__": {"format": "pt"}}
    for dtype, size in (("F8_E4M3", 1), ("F8_E5M2", 1), ("BF16", 2), ("F32", 4)):
        shape = [2**32 // size]
        write_header(
            path, metadata | {"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, 2**32]}}, 2**32
        )
        if known and dtype == "F32":
            continue
        expected = f"'w' is of type {dtype}" if known else "of format 'pt'; this reads 'kind'"
        with pytest.raises(ValueError, match=expected) as caught:
            load_tensors(path, "kind")
        assert str(path) in str(caught.value)


def test_deep_and_oversized_headers_are_refused(tmp_path):
    path = tmp_path / "t.safetensors"
    for header in (b'{"a":' + b"[" * 10**5, b'{"a":' * 10**5, b"{" + b" " * 2**24 + b"}", b"[]", b"", b"{"):
        write_header(path, header)
        refuse(path)
    for length in (2**40, 2**63, 100, 2):
        path.write_bytes(length.to_bytes(8, "little") + b"{}"[: length - 1])
        refuse(path)


def refuse(path):
    with pytest.raises(ValueError, match="not a whole safetensors file") as caught:
        load_tensors(path, "kind")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500
