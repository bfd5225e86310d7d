"""Sets of images by name, what is refused of them, and the folds of a trial."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from qrt_tn.models import image_sets, load_digits
from qrt_tn.models import split as split_points
from qrt_tn.models.image_sets import DEBIAN_FASHION_MNIST
from qrt_tn.models.images import IMAGE_SETS, Images, fold, load_images
from qrt_tn.models.splits import draw_stratified
from tests.models.conftest import RNG, assert_holds, pixels, write_cifar, write_idx

pytestmark = pytest.mark.usefixtures("nothing_at_hand")


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
    debian = tmp_path / "debian"
    monkeypatch.setattr(image_sets, "DEBIAN_FASHION_MNIST", debian)
    places = (debian, tmp_path / "user" / "FashionMNIST" / "raw", tmp_path / "user" / "fashion-mnist")
    for place in places:
        parts = write_idx(place, squeezed=place == debian)
        images = load_images("fashion-mnist")
        assert_holds(images, parts[0][..., None], parts[1], parts[2][..., None], parts[3])
        assert (images.name, images.classes[9]) == ("fashion-mnist", "Ankle boot")
        monkeypatch.setenv("QRT_TN_DATA", str(tmp_path / "user"))
        (tmp_path / "user").mkdir(exist_ok=True)
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


class Table(dict):
    """The part of a datasets.Dataset in use: features, length, a column, and slices as lists by column."""

    def __len__(self):
        return len(next(iter(self.values())))

    def __getitem__(self, key):
        return self.get(key) if isinstance(key, str) else {name: column[key] for name, column in self.items()}


@pytest.mark.parametrize(
    ("name", "repository", "columns", "shape"),
    [
        ("mnist", "ylecun/mnist", ("image", "label"), (28, 28)),
        ("fashion-mnist", "zalando-datasets/fashion_mnist", ("image", "label"), (28, 28)),
        ("cifar10", "uoft-cs/cifar10", ("img", "label"), (32, 32, 3)),
        ("cifar100", "uoft-cs/cifar100", ("img", "fine_label"), (32, 32, 3)),
    ],
)
def test_the_datasets_library_is_the_last_resort(name, repository, columns, shape, monkeypatch):
    monkeypatch.setattr(image_sets, "_BATCH", 7)
    labels = 100 if name == "cifar100" else 10
    x = {"train": pixels(23, *shape), "test": pixels(9, *shape)}
    y = {part: list(RNG.integers(labels, size=len(x[part]))) for part in x}
    image, label = columns

    def load_dataset(path, split):  # and so without trust_remote_code
        assert path == repository
        table = Table({image: [Image.fromarray(a) for a in x[split]], label: y[split]})
        table.features = {**table, label: SimpleNamespace(names=[f"the {k}" for k in range(labels)])}
        return table

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    images = load_images(name)
    shaped = [x[part].reshape(len(x[part]), *shape[:2], -1) for part in x]
    assert_holds(images, shaped[0], y["train"], shaped[1], y["test"])
    assert images.classes[3] == "the 3"
    image = "picture"
    with pytest.raises(ValueError, match=f"{repository} has no column"):
        load_images(name)


@pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_fashion_mnist_of_debian_is_whole(monkeypatch):
    monkeypatch.setattr(image_sets, "DEBIAN_FASHION_MNIST", DEBIAN_FASHION_MNIST)
    images = load_images("fashion-mnist")
    assert (images.x.shape, images.x_test.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    assert set(np.bincount(images.y)) == {6_000}
    part = fold(images, 0, points=1_000, flat=True)
    assert (part.x_train.shape, part.x_validation.shape) == ((1_000, 784), (5_000, 784))


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"'minst'.*digits, mnist, fashion-mnist, cifar10, cifar100"):
        load_images("minst")


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


def test_each_class_gives_its_share_to_validation_and_keeps_an_image():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        counts = rng.choice([1, 2, 3, 7, 40], size=5)
        y = rng.permutation(np.repeat(np.arange(5), counts))
        size = int(rng.integers(1, len(y) - 4))
        aside, kept = draw_stratified(y, size, seed)
        assert (len(aside), sorted([*aside, *kept])) == (size, list(range(len(y))))
        drawn = np.bincount(y[aside], minlength=5)
        assert (drawn < counts).all()
        share = size * counts / len(y)
        excess = np.maximum(share - (counts - 1), 0).sum()  # what rare classes cannot give, others do
        assert (np.abs(drawn - np.minimum(share, counts - 1)) <= 1 + excess).all()
        again, other = (np.concatenate(draw_stratified(y, size, seed + k)) for k in (0, 1))
        assert np.array_equal(again, np.concatenate([aside, kept]))
        assert len(y) < 20 or not np.array_equal(again, other)


def test_a_fold_parts_and_standardises_the_training_images(monkeypatch):
    monkeypatch.setattr("qrt_tn.models.images._BATCH", 13)
    images = some(points=60)
    images.x[..., 2] = 77
    images.x[:, 0, 0, 0] = np.arange(60)  # tells which image it is
    part = fold(images, 3, validation=12, points=40)
    aside, kept = draw_stratified(images.y, 12, 3)
    kept = kept[:40]
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
    for found, expected in (
        (part.y_train, images.y[kept]),
        (part.y_validation, images.y[aside]),
        (part.y_test, images.y_test),
    ):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.int32
    assert list(np.bincount(part.y_validation)) == [4, 4, 4]


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
    many = fold(some(points=60_000, shape=(1, 1, 1)), 0)
    assert (len(many.y_train), len(many.y_validation)) == (55_000, 5_000)  # as in the paper
    with pytest.raises(ValueError, match="one image of each class"):
        fold(some(points=3, y=np.arange(3)), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 0}, "validation is 0; give a whole number from 1 to 27"),
        ({"validation": 30}, "validation is 30; give a whole number from 1 to 27"),
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
