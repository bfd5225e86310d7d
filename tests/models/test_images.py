"""Sets of images by name, what is refused of them, and the folds of a trial."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from qrt_tn.models import image_sets, load_digits
from qrt_tn.models import split as split_points
from qrt_tn.models.images import Images, fold, load_images
from qrt_tn.models.splits import draw_stratified
from tests.models.conftest import RNG, assert_holds, pixels, write_cifar, write_idx

pytestmark = pytest.mark.usefixtures("nothing_at_hand")


def some(points=30, shape=(4, 5, 3), **changes):
    y = np.arange(points) % 3
    parts = {"x": pixels(points, *shape), "y": y, "x_test": pixels(6, *shape), "y_test": y[:6]}
    return Images(**{**parts, "name": "some", "classes": ("a", "b", "c"), **changes})


def test_digits_come_along_and_have_their_usual_test_points():
    images = load_images("digits")
    digits = load_digits()
    test = split_points(digits, 0).test
    rest = np.delete(np.arange(1797), test)
    flat = images.x.reshape(1437, 64), images.y, images.x_test.reshape(360, 64), images.y_test
    for found, wanted in zip(
        flat, (digits.x[rest], digits.y[rest], digits.x[test], digits.y[test]), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    assert (images.image_shape, images.outputs, images.white, len(images)) == ((8, 8, 1), 10, 16, 1437)
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
    with pytest.raises(ValueError, match=r"should hold mnist, 10 classes of images of shape \(28, 28, 1\)"):
        load_images("mnist")


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar100"])
def test_the_datasets_library_is_the_last_resort(name, monkeypatch):
    with pytest.raises(ValueError, match=r"pip install 'qrt-tn\[data\]'.*QRT_TN_DATA") as caught:
        load_images(name)
    assert ("apt-get install dataset-fashion-mnist" in str(caught.value)) == (name == "fashion-mnist")
    source = image_sets.SOURCES[name]
    x = {"train": pixels(23, *source.shape), "test": pixels(9, *source.shape)}
    y = {part: list(RNG.integers(10, size=len(x[part]))) for part in x}

    class Table(dict):
        features = {source.label: SimpleNamespace(names=[f"the {k}" for k, _ in enumerate(source.classes)])}  # noqa: RUF012

    def load_dataset(path, split):  # and so without trust_remote_code
        assert path == source.repository
        pictures = [Image.fromarray(a if a.shape[2] == 3 else a[..., 0]) for a in x[split]]
        return Table({source.image: pictures, source.label: y[split]})

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    images = load_images(name)
    assert_holds(images, x["train"], y["train"], x["test"], y["test"])
    assert images.classes[3] == "the 3"

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub\nin 23 s")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=unreachable))
    with pytest.raises(ValueError, match=r"\(Couldn't reach the Hub\); connect.*QRT_TN_DATA"):
        load_images(name)


@pytest.mark.parametrize("source", ["minst", "", None, 3, b"digits", ["digits"]])
def test_what_is_no_set_and_no_path_is_told_the_known_names(source):
    told = rf"{re.escape(repr(source))}.*digits, mnist, fashion-mnist, cifar10, cifar100, or a path"
    with pytest.raises(ValueError, match=told):
        load_images(source)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x": pixels(0, 4, 5, 3)}, r"x has shape \(0, 4, 5, 3\)"),
        ({"x_test": pixels(6, 4, 5)}, r"x_test has shape \(6, 4, 5\)"),
        ({"x": np.zeros((30, 4, 5, 3))}, "float64"),
        ({"white": 16}, "white, which is 16"),
        ({"y": np.zeros((30, 3), int)}, r"x's y has shape \(30, 3\)"),
        ({"y_test": np.arange(6) / 2}, "x_test's y has shape .* float64"),
        ({"y": np.arange(29) % 3}, "30 images but 29 labels"),
        ({"y": np.arange(30) % 4}, r"label 3, outside 0\.\.2"),
        ({"y_test": np.arange(6) - 1}, "label -1"),
        ({"y": np.ones(30, int)}, "of class 1"),
        ({"x_test": pixels(6, 5, 4, 3)}, r"\(5, 4, 3\) for the test"),
    ],
)
def test_images_are_checked(changes, told):
    with pytest.raises(ValueError, match=f"some.*{told}"):
        some(**changes)


def test_each_class_gives_its_share_to_validation_and_keeps_an_image():
    for seed in range(20):
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


@pytest.mark.parametrize("white", [255, 77])
def test_a_fold_parts_and_standardises_the_training_images(white, monkeypatch):
    monkeypatch.setattr("qrt_tn.models.images._BATCH", 13)
    x, x_test = (np.minimum(pixels(points, 4, 5, 3), white) for points in (60, 6))
    x[..., 2] = 77
    x[:, 0, 0, 0] = np.arange(60)  # tells which image it is
    images = some(points=60, x=x, x_test=x_test, white=white)
    part = fold(images, 3, validation=12, points=40)
    aside, kept = draw_stratified(images.y, 12, 3)
    kept = kept[:40]
    # the oracle: NumPy in float64
    scaled = images.x / white
    mean, deviation = scaled[kept].mean(axis=(0, 1, 2)), scaled[kept].std(axis=(0, 1, 2))
    deviation[2] = 1  # a constant channel stays finite
    for found, expected in (
        (part.x_train, scaled[kept]),
        (part.x_validation, scaled[aside]),
        (part.x_test, x_test / white),
    ):
        np.testing.assert_allclose(found, (expected - mean) / deviation, rtol=1e-5, atol=1e-6)
        assert found.dtype == np.float32
    for found, expected in (
        (part.y_train, images.y[kept]),
        (part.y_validation, images.y[aside]),
        (part.y_test, images.y_test),
    ):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.int32
    assert list(np.bincount(part.y_validation)) == [4, 4, 4]


def test_seeds_and_shapes_of_folds():
    images = some(points=60)
    first, again, other = fold(images, 0), fold(images, np.random.default_rng(0)), fold(images, 1)
    assert (len(first.x_train), len(first.x_validation)) == (50, 10)  # a sixth aside
    np.testing.assert_array_equal(first.x_train, again.x_train)
    assert not np.array_equal(np.sort(first.x_validation), np.sort(other.x_validation))
    few, flat = (fold(images, 0, points=20, flat=flat) for flat in (False, True))
    np.testing.assert_array_equal(few.y_train, first.y_train[:20])
    np.testing.assert_array_equal(few.y_validation, first.y_validation)
    for part in ("x_train", "x_validation", "x_test"):
        vectors = getattr(few, part).reshape(-1, 60)
        np.testing.assert_array_equal(getattr(flat, part), vectors)
    many = fold(some(points=60_000, shape=(1, 1, 1)), 0)
    assert (len(many.y_train), len(many.y_validation)) == (55_000, 5_000)  # as in the paper


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 0}, "validation is 0"),
        ({"validation": 30}, "validation is 30; give a whole number from 1 to 27"),
        ({"validation": 0.2}, "validation is 0.2"),
        ({"validation": "a"}, "validation is 'a'"),
        ({"points": 0}, "points is 0"),
        ({"validation": 10, "points": 21}, "points is 21; give a whole number from 1 to 20"),
        ({"points": True}, "points is True"),
        ({"seed": -1}, "seed is -1"),
        ({"images": some(points=3, y_test=np.zeros(6, int))}, "one image of each class"),
    ],
)
def test_folds_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fold(**{"images": some(), "seed": 0, **options})
