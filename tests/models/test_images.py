"""Images in every format a user may have them in, what is refused, and the folds of a trial."""

import gzip
import pickle
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from models import images as rooms
from models.datasets import load_digits
from models.datasets import split as split_points
from models.images import DEBIAN_FASHION_MNIST, IMAGE_SETS, Images, fold, load_images

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch, tmp_path):
    """No data of this machine, no network: each test says what there is."""
    monkeypatch.delenv("QRT_TN_DATA", raising=False)
    monkeypatch.setattr(rooms, "DEBIAN_FASHION_MNIST", tmp_path / "no Debian")
    monkeypatch.setitem(sys.modules, "datasets", None)


def pixels(*shape):
    return RNG.integers(256, size=shape, dtype=np.uint8)


def some(points=30, shape=(4, 5, 3), classes=3, **changes):
    parts = {
        "x": pixels(points, *shape),
        "y": np.arange(points) % classes,
        "x_test": pixels(6, *shape),
        "y_test": np.arange(6) % classes,
        "name": "some",
        "classes": tuple(f"class {label}" for label in range(classes)),
    }
    return Images(**{**parts, **changes})


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
            (folder / name).write_bytes(gzip.compress(content) if squeezed else content)
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


# --- named sets ---


def test_digits_come_along_and_have_their_usual_test_points():
    images = load_images("digits")
    digits = load_digits()
    test = split_points(digits, 0).test
    np.testing.assert_array_equal(images.x_test.reshape(360, 64), digits.x[test])
    np.testing.assert_array_equal(images.y_test, digits.y[test])
    np.testing.assert_array_equal(images.x.reshape(1437, 64), np.delete(digits.x, test, axis=0))
    assert (images.image_shape, images.outputs, images.white, len(images)) == ((8, 8, 1), 10, 16, 1437)
    assert images.x.max() == 16
    assert not np.array_equal(load_images("digits", seed=1).y_test, images.y_test)


def test_a_named_set_is_looked_for_in_the_users_folder_first(tmp_path, monkeypatch):
    parts = write_idx(tmp_path / "user" / "fashion-mnist")
    debian = tmp_path / "debian"
    others = write_idx(debian, squeezed=True)
    monkeypatch.setattr(rooms, "DEBIAN_FASHION_MNIST", debian)
    assert_holds(
        load_images("fashion-mnist"), others[0][..., None], others[1], others[2][..., None], others[3]
    )
    monkeypatch.setenv("QRT_TN_DATA", str(tmp_path / "user"))
    images = load_images("fashion-mnist")
    assert_holds(images, parts[0][..., None], parts[1], parts[2][..., None], parts[3])
    assert (images.name, images.classes[9]) == ("fashion-mnist", "Ankle boot")
    with pytest.raises(ValueError, match="no data of mnist"):
        load_images("mnist")
    monkeypatch.setenv("QRT_TN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"nowhere.*no folder"):
        load_images("mnist")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_named_set_must_be_what_its_name_says(name, tmp_path, monkeypatch):
    monkeypatch.setenv("QRT_TN_DATA", str(tmp_path))
    parts = write_cifar(tmp_path / name, labels=int(name[5:]))
    images = load_images(name)
    assert_holds(images, *parts)
    assert images.classes[3] == ("cat" if name == "cifar10" else "3")
    (tmp_path / name).rename(tmp_path / "mnist")
    with pytest.raises(ValueError, match=r"should hold 10 classes of images of shape \(28, 28, 1\)"):
        load_images("mnist")


@pytest.mark.parametrize("name", IMAGE_SETS[1:])
def test_what_to_do_where_a_set_is_nowhere(name, monkeypatch):
    with pytest.raises(ValueError, match=r"pip install 'qrt-tn\[data\]'.*QRT_TN_DATA") as caught:
        load_images(name)
    assert ("apt-get install dataset-fashion-mnist" in str(caught.value)) == (name == "fashion-mnist")

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub\nin 23 s")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=unreachable))
    with pytest.raises(ValueError, match=r"\(Couldn't reach the Hub\); connect.*QRT_TN_DATA"):
        load_images(name)


class Table:
    """The part of a datasets.Dataset in use: features, length, a column, and slices as lists by column."""

    def __init__(self, columns, names, label):
        self.columns, self.features = columns, dict.fromkeys(columns)
        self.features[label] = SimpleNamespace(names=names)

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        return {name: column[key] for name, column in self.columns.items()}


@pytest.mark.parametrize(
    ("name", "repository", "columns", "shape", "labels"),
    [
        ("mnist", "ylecun/mnist", ("image", "label"), (28, 28), 10),
        ("fashion-mnist", "zalando-datasets/fashion_mnist", ("image", "label"), (28, 28), 10),
        ("cifar10", "uoft-cs/cifar10", ("img", "label"), (32, 32, 3), 10),
        ("cifar100", "uoft-cs/cifar100", ("img", "fine_label"), (32, 32, 3), 100),
    ],
)
def test_the_datasets_library_is_the_last_resort(name, repository, columns, shape, labels, monkeypatch):
    monkeypatch.setattr(rooms, "_BATCH", 7)
    x = {"train": pixels(23, *shape), "test": pixels(9, *shape)}
    y = {part: list(RNG.integers(labels, size=len(x[part]))) for part in x}
    asked = []

    def load_dataset(path, split, **options):
        asked.append((path, options))
        content = dict(zip(columns, ([Image.fromarray(a) for a in x[split]], y[split]), strict=True))
        return Table(content, [f"the {label}" for label in range(labels)], columns[1])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    images = load_images(name)
    spread = (len(shape) == 2) * (1,)
    assert_holds(
        images,
        x["train"].reshape(23, *shape, *spread),
        y["train"],
        x["test"].reshape(9, *shape, *spread),
        y["test"],
    )
    assert images.classes[3] == "the 3"
    assert asked == [(repository, {})] * 2  # and so without trust_remote_code
    columns = ("picture", columns[1])
    with pytest.raises(ValueError, match=f"{repository} has no column"):
        load_images(name)


@pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_fashion_mnist_of_debian_is_whole(monkeypatch):
    monkeypatch.setattr(rooms, "DEBIAN_FASHION_MNIST", DEBIAN_FASHION_MNIST)
    images = load_images("fashion-mnist")
    assert (images.x.shape, images.x_test.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    assert set(np.bincount(images.y)) == {6_000}
    part = fold(images, 0, points=1_000, flat=True)
    assert (part.x_train.shape, part.x_validation.shape) == ((1_000, 784), (5_000, 784))


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"'minst'.*digits, mnist, fashion-mnist, cifar10, cifar100"):
        load_images("minst")


# --- local files ---


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": pixels(0, 4, 5, 3)}, "x has shape"),
        ({"x_test": pixels(6, 4, 5)}, "x_test has shape"),
        ({"x": np.zeros((30, 4, 5, 3))}, "x has dtype float64"),
        ({"white": 16}, "above white"),
        ({"white": 0}, "white is 0"),
        ({"y": np.zeros((30, 3), int)}, "y has shape"),
        ({"y_test": np.arange(6) / 2}, "y_test has shape .* float64"),
        ({"y": np.arange(29) % 3}, "30 images in x but 29 labels"),
        ({"y": np.arange(30) % 4}, r"y holds label 3, outside 0\.\.2"),
        ({"y_test": np.arange(6) - 1}, "y_test holds label -1"),
        ({"y": np.ones(30, int)}, "all 30 training images are of class 1"),
        ({"x_test": pixels(6, 5, 4, 3)}, "bring both to one shape"),
    ],
)
def test_images_are_checked(changes, message):
    with pytest.raises(ValueError, match=f"some.*{message}"):
        some(**changes)


# --- folds ---


def test_a_fold_parts_and_standardises_the_training_images(monkeypatch):
    monkeypatch.setattr(rooms, "_BATCH", 13)
    # every image is a class of its own, so that its label tells which image it is
    images = some(points=60, classes=60, y_test=np.arange(6))
    images.x[..., 2] = 77
    part = fold(images, 3, validation=12, points=40)
    kept, aside = part.y_train, part.y_validation
    assert (len(kept), len(aside), len(set(kept) | set(aside))) == (40, 12, 52)  # none in both
    # the oracle: NumPy in float64
    scaled = images.x / 255
    mean, deviation = scaled[kept].mean(axis=(0, 1, 2)), scaled[kept].std(axis=(0, 1, 2))
    deviation[2] = 1
    for found, expected in (
        (part.x_train, scaled[kept]),
        (part.x_validation, scaled[aside]),
        (part.x_test, images.x_test / 255),
    ):
        np.testing.assert_allclose(found, (expected - mean) / deviation, rtol=1e-5, atol=1e-6)
        assert found.dtype == np.float32
    assert (part.x_train[..., 2] == 0).all()  # a constant channel stays finite
    np.testing.assert_allclose(part.x_train[..., :2].mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(part.x_train[..., :2].std(axis=(0, 1, 2)), 1, rtol=1e-5)
    assert {y.dtype for y in (part.y_train, part.y_validation, part.y_test)} == {np.dtype(np.int32)}
    np.testing.assert_array_equal(part.y_test, images.y_test)


def test_white_is_the_unit_of_a_pixel():
    x = np.full((20, 2, 2, 1), 8, np.uint8)
    images = some(points=20, x=x, x_test=np.full((6, 2, 2, 1), 16, np.uint8), y=np.arange(20) % 3, white=16)
    assert (fold(images, 0).x_test == 0.5).all()


def test_seeds_and_shapes_of_folds():
    images = some(points=60)
    first, again, other = fold(images, 0), fold(images, np.random.default_rng(0)), fold(images, 1)
    assert (len(first.x_train), len(first.x_validation)) == (50, 10)  # a sixth aside
    np.testing.assert_array_equal(first.x_train, again.x_train)
    assert not np.array_equal(np.sort(first.x_validation), np.sort(other.x_validation))
    flat = fold(images, 0, flat=True)
    np.testing.assert_array_equal(flat.x_train, first.x_train.reshape(50, 60))
    assert (flat.x_validation.shape, flat.x_test.shape) == ((10, 60), (6, 60))
    few = fold(images, 0, points=20)
    np.testing.assert_array_equal(few.y_train, first.y_train[:20])
    np.testing.assert_array_equal(few.y_validation, first.y_validation)


def test_five_thousand_validation_points_as_in_the_paper():
    points = 60_000
    images = some(points=points, shape=(1, 1, 1))
    part = fold(images, 0)
    assert (len(part.y_train), len(part.y_validation)) == (55_000, 5_000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 0}, "validation is 0; give a whole number from 1 to 29"),
        ({"validation": 30}, "validation is 30; give a whole number from 1 to 29"),
        ({"validation": 0.2}, "validation is 0.2"),
        ({"points": 0}, "points is 0; give a whole number from 1 to 25"),
        ({"validation": 10, "points": 21}, "points is 21; give a whole number from 1 to 20"),
        ({"points": True}, "points is True"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_folds_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fold(some(), **{"seed": 0, **options})
