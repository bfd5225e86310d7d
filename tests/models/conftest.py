"""Image files that tests write, and a machine that has none of its own."""

import gzip
import struct
import sys

import numpy as np
import pytest

from qrt_tn.models import image_sets

RNG = np.random.default_rng(0)


@pytest.fixture
def nothing_at_hand(monkeypatch, tmp_path):
    """No data of this machine, no network: each test says what there is."""
    monkeypatch.delenv("QRT_TN_DATA", raising=False)
    monkeypatch.setattr(image_sets, "DEBIAN_FASHION_MNIST", tmp_path / "no Debian")
    monkeypatch.setitem(sys.modules, "datasets", None)


def pixels(*shape):
    return RNG.integers(256, size=shape, dtype=np.uint8)


def packed(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder, spelling="{}-{}-idx{}-ubyte", squeezed=False, height=28, width=28, labels=10):
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for part, points in (("train", 40), ("t10k", 20)):
        x, y = pixels(points, height, width), (np.arange(points) % labels).astype(np.uint8)
        for kind, array in (("images", x), ("labels", y)):
            content = packed(array)
            name = spelling.format(part, kind, array.ndim) + (".gz" if squeezed else "")
            (folder / name).write_bytes(gzip.compress(content, mtime=0) if squeezed else content)
        parts += [x, y]
    return parts


def write_cifar(folder, labels=10):
    """Rows one by one, byte by byte, as the format's description has them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if labels == 10 else ["train.bin"]
    parts = []
    for files in (names, ["test_batch.bin" if labels == 10 else "test.bin"]):
        xs, ys = [], []
        for file in files:
            content = b""
            for point in range(4):
                x, y = pixels(32, 32, 3), (7 * point + len(xs)) % labels
                content += bytes([y]) if labels == 10 else bytes([y // 5, y])
                for colour in range(3):
                    content += b"".join(x[row, :, colour].tobytes() for row in range(32))
                xs.append(x)
                ys.append(y)
            (folder / file).write_bytes(content)
        parts += [np.stack(xs), np.array(ys)]
    return parts


def assert_holds(images, x, y, x_test, y_test):
    for found, expected in (
        (images.x, x),
        (images.y, y),
        (images.x_test, x_test),
        (images.y_test, y_test),
    ):
        np.testing.assert_array_equal(found, expected)
