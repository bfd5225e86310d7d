"""Images in every format a user may have them in, and the files that are refused."""

import pickle

import numpy as np
import pytest
from PIL import Image

from qrt_tn.models.images import load_images
from tests.models.conftest import assert_holds, packed, pixels, write_cifar, write_idx

RNG = np.random.default_rng(0)
pytestmark = pytest.mark.usefixtures("nothing_at_hand")


@pytest.mark.parametrize("spelling", ["{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte"])
@pytest.mark.parametrize("squeezed", [True, False])
@pytest.mark.parametrize("inner", ["", "raw"])
def test_idx_files_of_any_spelling(spelling, squeezed, inner, tmp_path):
    parts = write_idx(tmp_path / "mine.v2" / inner, spelling, squeezed, height=3, width=4, labels=4)
    images = load_images(tmp_path / "mine.v2")
    assert_holds(images, parts[0][..., None], parts[1], parts[2][..., None], parts[3])
    assert (images.name, images.classes, images.white) == ("mine.v2", ("0", "1", "2", "3"), 255)


@pytest.mark.parametrize("labels", [10, 100])
@pytest.mark.parametrize("inner", ["", "cifar-binary"])
def test_cifar_in_its_binary_version(labels, inner, tmp_path):
    parts = write_cifar(tmp_path / inner, labels)
    images = load_images(str(tmp_path))
    assert_holds(images, *parts)
    assert images.classes == tuple(str(label) for label in range(labels))
    names = tmp_path / inner / ("batches.meta.txt" if labels == 10 else "fine_label_names.txt")
    names.write_text("".join(f"thing {label}\n" for label in range(labels)) + "\n")
    assert load_images(tmp_path).classes[2] == "thing 2"
    names.write_text("only one\n")
    with pytest.raises(ValueError, match=rf"{names.name} names 1 classes, not {labels}"):
        load_images(tmp_path)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_npz_files_with_and_without_a_test_set(channels, tmp_path):
    x, x_test = pixels(40, 3, 4, *channels), pixels(8, 3, 4, *channels)
    y, y_test = np.arange(40) % 4, np.arange(8) % 4
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y[:, None], x_test=x_test, y_test=y_test[:, None])
    shape = (3, 4, *(channels or (1,)))
    for source in (tmp_path / "mine.npz", tmp_path):
        assert_holds(load_images(source), x.reshape(40, *shape), y, x_test.reshape(8, *shape), y_test)
    np.savez_compressed(tmp_path / "mine.npz", x=x.astype(int), y=y)
    images = load_images(tmp_path / "mine.npz")
    assert (images.name, images.x.dtype, len(images.x_test)) == ("mine", np.uint8, 8)
    assert set(np.bincount(images.y_test)) == {2}  # stratified
    together = [image.tobytes() + bytes([label]) for image, label in zip(images.x, images.y, strict=True)]
    together += [
        image.tobytes() + bytes([label]) for image, label in zip(images.x_test, images.y_test, strict=True)
    ]
    assert sorted(together) == sorted(a.tobytes() + bytes([b]) for a, b in zip(x, y, strict=True))
    again, other = load_images(tmp_path / "mine.npz", seed=0), load_images(tmp_path / "mine.npz", seed=1)
    assert np.array_equal(again.x_test, images.x_test)
    assert not np.array_equal(other.x_test, images.x_test)


def write_folders(folder, classes=("ant", "bee"), each=5, suffix="png"):
    """Images and labels in the order of the files' names."""
    x, y = [], []
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            x.append(pixels(3, 4, 3))
            y.append(label)
            Image.fromarray(x[-1]).save(folder / name / f"{number}.{suffix}")
    return np.stack(x), np.array(y)


def test_folders_of_images(tmp_path):
    x, y = write_folders(tmp_path / "train")
    x_test, y_test = write_folders(tmp_path / "test", each=2)
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    images = load_images(tmp_path)
    assert_holds(images, x, y, x_test, y_test)
    assert images.classes == ("ant", "bee")
    images = load_images(tmp_path / "train")
    assert (len(images.x), len(images.x_test), images.name) == (8, 2, "train")
    (tmp_path / "test" / "bee").rename(tmp_path / "test" / "cow")
    with pytest.raises(ValueError, match="class folder 'bee' is not in both"):
        load_images(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    write_folders(tmp_path, classes=("car", "train"))
    assert load_images(tmp_path).classes == ("car", "train")


def test_jpeg_images_are_pillows(tmp_path):
    write_folders(tmp_path / "train", suffix="jpg")
    write_folders(tmp_path / "test", suffix="JPEG")
    images = load_images(tmp_path)
    with Image.open(tmp_path / "train" / "bee" / "0.jpg") as first:
        np.testing.assert_array_equal(images.x[5], np.asarray(first))


def test_colours_become_grey_or_rgb(tmp_path):
    grey = pixels(3, 4)
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(grey).save(tmp_path / name / f"{number}.png")
    path = tmp_path / "ant" / "0.png"
    Image.fromarray(grey > 99).save(path)
    images = load_images(tmp_path)
    assert images.image_shape == (3, 4, 1)
    found = np.concatenate([images.x, images.x_test])[..., 0]
    assert sum(np.array_equal(image, grey) for image in found) == 5
    assert sum(np.array_equal(image, 255 * (grey > 99)) for image in found) == 1
    red = np.zeros((3, 4, 4), dtype=np.uint8)
    red[..., 0], red[..., 3] = 200, 7
    for image in (Image.fromarray(red), Image.fromarray(red[..., :3]).quantize(2)):
        image.save(path, transparency=b"\x05\x80" if image.mode == "P" else None)
        images = load_images(tmp_path)
        found = np.concatenate([images.x, images.x_test])
        assert images.image_shape == (3, 4, 3)
        assert sum(np.array_equal(image, red[..., :3]) for image in found) == 1
        assert sum(np.array_equal(image, np.repeat(grey[..., None], 3, axis=2)) for image in found) == 5


# --- refusals ---


def test_a_torn_image_is_named_wherever_it_is_torn(tmp_path):
    write_folders(tmp_path, each=1)
    path = tmp_path / "bee" / "0.png"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 30, 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"bee/0.png is not a whole image"):
            load_images(tmp_path)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 3), np.uint8), r"bee/0.png has 4 x 3 pixels, the images before it 3 x 4"),
        (np.zeros((3, 4), np.uint16), r"bee/0.png has more than 8 bits"),
    ],
)
def test_odd_images_are_named(image, message, tmp_path):
    write_folders(tmp_path)
    Image.fromarray(image).save(tmp_path / "bee" / "0.png")
    with pytest.raises(ValueError, match=message):
        load_images(tmp_path)


def test_odd_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds no data set"):
        load_images(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        load_images(tmp_path / "absent")
    (tmp_path / "data.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="unpack an archive"):
        load_images(tmp_path / "data.tar.gz")
    write_folders(tmp_path / "train")
    with pytest.raises(ValueError, match="test holds no classes"):
        load_images(tmp_path)
    for file in (tmp_path / "train" / "bee").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"bee holds no .png"):
        load_images(tmp_path / "train")
    write_idx(tmp_path / "a")
    write_cifar(tmp_path / "b")
    with pytest.raises(ValueError, match="several data sets"):
        load_images(tmp_path)


@pytest.mark.parametrize("names", [["data_batch_1", "test_batch"], ["train", "test", "meta"]])
@pytest.mark.parametrize("inner", ["", "cifar-py"])
def test_pickles_are_refused_unread(names, inner, tmp_path, monkeypatch):
    def unpickled(*args, **kwargs):
        raise AssertionError("unpickled")

    (tmp_path / inner).mkdir(exist_ok=True)
    for name in names:
        (tmp_path / inner / name).write_bytes(pickle.dumps({"data": [0]}))
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, unpickled)
    with pytest.raises(ValueError, match=r"pickled.*fetch the binary version"):
        load_images(tmp_path)
    # beside it, the binary version is read
    write_cifar(tmp_path / "other")
    assert load_images(tmp_path).outputs == 10


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "lacks {}"),
        (b"torn", "{} is not an IDX file"),
        (packed(np.zeros((40, 2), np.uint8)), "{} has 2 axes"),
        (packed(np.zeros(7, np.uint8)), "7 labels for 20 images|has 1 axes"),
        (packed(np.full(20, 200, np.uint8)), "{} holds label 200, which|has 1 axes"),
    ],
)
def test_odd_idx_files_are_named(file, content, message, tmp_path):
    write_idx(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message.format(file)):
        load_images(tmp_path)


def test_idx_labels_have_no_gaps_and_no_strangers(tmp_path, monkeypatch):
    write_idx(tmp_path / "mnist")
    labels = tmp_path / "mnist" / "train-labels-idx1-ubyte"
    labels.write_bytes(packed((np.arange(40) % 10 + 1).astype(np.uint8)))
    monkeypatch.setenv("QRT_TN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte holds label 10, outside 0\.\.9"):
        load_images("mnist")
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte holds label 0, which .*train"):
        load_images(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").write_bytes(packed(np.ones(20, np.uint8)))
    with pytest.raises(ValueError, match="no label 0 but 10"):
        load_images(tmp_path / "mnist")


@pytest.mark.parametrize("labels", [10, 100])
def test_odd_cifar_files_are_named(labels, tmp_path):
    write_cifar(tmp_path, labels)
    file = tmp_path / ("data_batch_3.bin" if labels == 10 else "train.bin")
    whole = bytearray(file.read_bytes())
    for content in (whole[:-1], b""):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"{file.name} holds {len(content)} bytes"):
            load_images(tmp_path)
    whole[0] = 20
    file.write_bytes(whole)
    with pytest.raises(ValueError, match=f"{file.name} holds label 20"):
        load_images(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=f"lacks {file.name}"):
        load_images(tmp_path)


X, Y = pixels(12, 2, 2), np.arange(12) % 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": X, "y_train": Y, "x_test": X}, "no array 'y_test'"),
        ({"features": X}, "no array 'x', only features"),
        ({"x": X / 255, "y": Y}, "x holds float64"),
        ({"x": X.astype(int) - 300, "y": Y}, "x holds values from"),
        ({"x": X[:, 0, 0], "y": Y}, r"shape \(12,\)"),
        ({"x": X, "y": Y[1:]}, "12 images but 11 labels"),
        ({"x": X, "y": Y / 2}, "integer labels"),
        ({"x": X, "y": Y - 1}, "y holds -1"),
        ({"x": X, "y": Y + 1}, "no label 0 but 3"),
        ({"x": X, "y": 0 * Y}, "are the same"),
        ({"x": X, "y": np.arange(12) // 11}, "class '1' has 1 images"),
        ({"x_train": X, "y_train": 0 * Y, "x_test": X, "y_test": 0 * Y}, "give two or more"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :1], "y_test": Y}, "bring both to one shape"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1}, "holds label 3, which"),
        ({"x": X, "y": Y.astype(object)}, "not a whole npz.*pickle"),
    ],
)
def test_odd_npz_files_are_named(arrays, message, tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ValueError, match=f"mine.*{message}"):
        load_images(tmp_path / "mine.npz")


@pytest.mark.parametrize("compressed", [True, False])
def test_a_torn_npz_file_is_named(compressed, tmp_path):
    path = tmp_path / "mine.npz"
    (np.savez_compressed if compressed else np.savez)(path, x=X, y=Y)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"mine\.npz is not a whole npz"):
        load_images(path)
    bent = bytearray(whole)
    bent[180] ^= 255
    path.write_bytes(bent)
    with pytest.raises(ValueError, match=r"mine\.npz is not a whole npz"):
        load_images(path)
