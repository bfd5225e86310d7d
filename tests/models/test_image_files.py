"""Sets of images in IDX, CIFAR and npz files, and the files that are refused."""

import os
import pickle

import numpy as np
import pytest

from qrt_tn.models.images import load_images
from tests.models.conftest import assert_holds, packed, pixels, write_cifar, write_idx

pytestmark = pytest.mark.usefixtures("nothing_at_hand")


@pytest.mark.parametrize("spelling", ["{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte"])
@pytest.mark.parametrize("inner", ["", "raw", "MNIST/raw"])
def test_idx_files_of_any_spelling(spelling, inner, tmp_path):
    squeezed = inner == "raw"
    parts = write_idx(tmp_path / "mine.v2" / inner, spelling, squeezed, height=3, width=4, labels=4)
    images = load_images(tmp_path / "mine.v2")
    assert_holds(images, parts[0][..., None], parts[1], parts[2][..., None], parts[3])
    assert (images.name, images.classes, images.white) == ("mine.v2", ("0", "1", "2", "3"), 255)


@pytest.mark.parametrize("labels", [10, 100])
def test_cifar_in_its_binary_version_whole_named_and_damaged(labels, tmp_path):
    inner = tmp_path / "cifar-binary"
    parts = write_cifar(inner, labels)
    images = load_images(str(tmp_path))
    assert_holds(images, *parts)
    assert images.classes == tuple(map(str, range(labels)))
    names = inner / ("batches.meta.txt" if labels == 10 else "fine_label_names.txt")
    names.write_text("".join(f"thing {label}\n" for label in range(labels)) + "\n")
    assert load_images(inner).classes[2] == "thing 2"
    file = inner / ("data_batch_3.bin" if labels == 10 else "train.bin")
    whole = bytearray(file.read_bytes())
    whole[labels == 100] = labels
    for content in (whole[:-1], b"", whole, None):
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(ValueError, match=f"{file.name}|y holds label {labels}"):
            load_images(inner)


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
@pytest.mark.parametrize("first", [True, False])
def test_npz_files_with_and_without_a_test_set(channels, first, tmp_path):
    x, x_test = pixels(40, 5, 6, *channels), pixels(8, 5, 6, *channels)
    y, y_test = np.arange(40) % 4, np.arange(8) % 4
    first = first and bool(channels)
    held = [np.moveaxis(part, 3, 1) if first else part for part in (x, x_test)]
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=held[0], y_train=y[:, None], x_test=held[1], y_test=y_test[:, None])
    shape = (5, 6, *(channels or (1,)))
    for source in (path, tmp_path):
        images = load_images(source)
        assert_holds(images, x.reshape(40, *shape), y, x_test.reshape(8, *shape), y_test)
        assert ("x_train had its channels first" in images.describe()) == first
    np.savez_compressed(path, x=held[0].astype(int), y=y)
    images = load_images(path)
    assert (images.name, images.x.dtype, images.image_shape) == ("mine", np.uint8, shape)
    assert set(np.bincount(images.y_test)) == {2}  # stratified
    joined = zip([*images.x, *images.x_test], [*images.y, *images.y_test], strict=True)
    assert sorted((bytes(a), b) for a, b in joined) == sorted(
        (bytes(a), b) for a, b in zip(x, y, strict=True)
    )
    assert np.array_equal(load_images(path, seed=0).x_test, images.x_test)
    assert not np.array_equal(load_images(path, seed=1).x_test, images.x_test)


@pytest.mark.parametrize("shape", [(9, 3, 32, 3), (9, 8, 8, 8), (9, 3, 2, 8), (9, 3, 8, 2)])
def test_what_may_have_its_channels_last_is_left_so(shape, tmp_path):
    np.savez(tmp_path / "mine.npz", x=pixels(*shape), y=np.arange(9) % 3)
    assert load_images(tmp_path / "mine.npz").image_shape == shape[1:]


def test_other_sources_are_named(tmp_path):
    with pytest.raises(ValueError, match="absent"):
        load_images(tmp_path / "absent")
    (tmp_path / "data.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"data\.tar\.gz.*unpack an archive"):
        load_images(tmp_path / "data.tar.gz")
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match="no two folders"):
        load_images(tmp_path)
    for name in ("data_batch_1", "train"):
        (tmp_path / name).write_bytes(pickle.dumps({"data": [0]}))
        with pytest.raises(ValueError, match=r"pickled.*binary version"):
            load_images(tmp_path)
        (tmp_path / name).unlink()
    write_idx(tmp_path / "MNIST" / "raw")
    write_idx(tmp_path / "FashionMNIST" / "raw")
    with pytest.raises(ValueError, match=r"several data sets .*FashionMNIST/raw.*MNIST/raw"):
        load_images(tmp_path)


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        (IMAGES, None, IMAGES),
        (IMAGES, b"torn", IMAGES),
        (IMAGES, packed(np.zeros((40, 2), np.uint8)), f"{IMAGES} has 2 axes"),
        (LABELS, packed(np.zeros(7, np.uint8)), "20 images but 7 labels"),
        (LABELS, packed(np.full(20, 200, np.uint8)), r"label 200, outside 0\.\.9"),
        ("train-labels-idx1-ubyte", packed(np.full(40, 3, np.uint8)), "label 3 where 0 is expected"),
    ],
)
def test_odd_idx_files_are_named(file, content, told, tmp_path):
    write_idx(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=told) as caught:
        load_images(tmp_path)
    assert tmp_path.name in str(caught.value)


X, Y = pixels(12, 2, 2), np.arange(12) % 3


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x_train": X, "y_train": Y, "x_test": X}, "'y_test'"),
        ({"features": X}, "'x'; it holds features"),
        ({"x": X / 255, "y": Y}, "float64"),
        ({"x": pixels(12, 5, 9, 8), "y": Y}, r"\(12, 5, 9, 8\) may have 5 channels first or 8 last"),
        ({"x": X.astype(int) - 300, "y": Y}, "x holds values from"),
        ({"x": X[:, 0, 0], "y": Y}, r"\(12,\)"),
        ({"x": X[:0], "y": Y[:0]}, r"\(0, 2, 2, 1\)"),
        ({"x": X, "y": Y / 2}, "label 0.5"),
        ({"x": X, "y": Y - 1}, "label -1"),
        ({"x": X, "y": Y * 2}, "label 2 where 1 is expected"),
        ({"x": X, "y": Y.astype(str)}, "label '0' where 0 is expected"),
        ({"x": X, "y": 0 * Y}, "of class 0"),
        ({"x": X, "y": np.arange(12) // 11}, "class '1' has one image"),
        ({"x": X, "y": Y.astype(object)}, "npz"),
    ],
)
def test_odd_npz_files_are_named(arrays, told, tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ValueError, match=f"mine.*{told}"):
        load_images(tmp_path / "mine.npz")
