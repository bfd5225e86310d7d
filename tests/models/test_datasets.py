"""Data sets from every kind of file, their splits, and everything that can be wrong with them."""

import gzip

import numpy as np
import pandas as pd
import pytest

from qrt_tn.models import Dataset, load_digits, load_file, one_hot, split

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4))
LABELS = np.arange(30) % 3


def write(folder, suffix, x, y):
    path = folder / f"data{suffix}"
    if suffix == ".npz":
        np.savez(path, x=x, y=y)
        return path
    frame = pd.DataFrame(x, columns=[f"feature {i}" for i in range(x.shape[1])]).assign(label=y)
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_every_format_gives_the_same_data(suffix, tmp_path):
    names = np.array(["zebra", "ant", "cow"])[LABELS]
    dataset = load_file(write(tmp_path, suffix, X, names))
    np.testing.assert_allclose(dataset.x, X, rtol=1e-12)
    assert dataset.classes == dataset.class_values == ("ant", "cow", "zebra")
    assert [dataset.classes[label] for label in dataset.y] == list(names)
    assert (dataset.name, dataset.image_shape, dataset.outputs) == ("data", None, 3)
    gaps = np.where(RNG.random(X.shape) < 0.2, np.nan, X)
    numbers = load_file(write(tmp_path, suffix, gaps, LABELS * 10 - 5), impute="median")
    np.testing.assert_allclose(numbers.x, gaps)  # until the data are split
    assert f"{np.isnan(gaps).sum()} missing values, filled in by median" in numbers.describe()
    assert numbers.classes == ("-5", "5", "15")
    np.testing.assert_array_equal(numbers.y, LABELS)
    real = load_file(write(tmp_path, suffix, X, X[:, 0] ** 2))
    np.testing.assert_allclose(real.y, X[:, :1] ** 2, rtol=1e-12)
    assert real.classes is None


def test_npz_files_hold_images_one_hot_labels_and_several_targets(tmp_path):
    path = tmp_path / "images.npz"
    images = RNG.integers(256, size=(20, 2, 3, 3), dtype=np.uint8)
    energy = RNG.normal(size=(20, 2))
    np.savez(path, X=images, y=np.eye(4)[np.arange(20) % 4], energy=energy)
    dataset = load_file(path)
    np.testing.assert_array_equal(dataset.x, images.reshape(20, 18))
    assert (dataset.image_shape, dataset.class_values) == ((2, 3, 3), (0, 1, 2, 3))
    assert dataset.names[2:4] == ("pixel (0, 0, 2)", "pixel (0, 1, 0)")
    assert dataset.describe() == "20 images of 2 x 3 x 3, target 'y', classification, 4 classes"
    assert load_file(path, task="regression").outputs == 4
    np.testing.assert_array_equal(load_file(path, "energy").y, energy)
    for grey in (images[..., :1], images[..., 0]):
        np.savez(path, x=grey, y=np.arange(20) / 3)
        assert load_file(path).image_shape == (2, 3)
        assert load_file(path).names[4] == "pixel (1, 1)"


@pytest.mark.parametrize(
    ("target", "task", "values"),
    [
        ("1", None, ("a", "b")),
        ("-1", None, (False, True)),
        ("number", None, (1, 4)),
        ("real", "regression", None),
        ("real", "classification", (0.5, 1.5)),
        ("number", "regression", None),
        ("code", "regression", None),
        ("code", None, ("007", "08")),  # two labels, and no numbers
    ],
)
def test_classes_are_those_of_the_file(target, task, values, tmp_path):
    frame = pd.DataFrame({"kind": ["a", "b"] * 5, "number": [1, 4] * 5, "real": [0.5, 1.5] * 5})
    frame.assign(code=["007", "08"] * 5, more=X[:10, 0], flag=[True, False] * 5).to_csv(tmp_path / "t.csv")
    dataset = load_file(tmp_path / "t.csv", target, task=task, encode="ordinal")
    assert dataset.class_values == values
    assert values is None or [type(value) for value in dataset.class_values] == list(map(type, values))


def test_a_csv_file_needs_no_header(tmp_path):
    path = tmp_path / "data.csv"
    np.savetxt(path, np.column_stack([X, LABELS]), delimiter=",")
    dataset = load_file(path, "-1")
    np.testing.assert_allclose(dataset.x, X)
    np.testing.assert_array_equal(dataset.y, LABELS)
    assert dataset.class_values == (0, 1, 2)
    first, last = r"regression \(30 values from", r"classification, 3 classes \(0, 1, 2\)"
    with pytest.raises(
        ValueError, match=rf"\n.*--data {path} --target 0 .*{first}.*\n.*--target -1 .*{last}"
    ):
        load_file(path)


def test_the_data_line(tmp_path):
    path = tmp_path / "plants.csv.gz"
    text = "id,Species Name,width,constant\n" + "".join(f"{i},{'ab'[i % 2]},{i / 7},0\n" for i in range(9))
    path.write_bytes(gzip.compress(text.encode()))
    dataset = load_file(path, "Species Name")
    assert dataset.name == "plants"
    assert dataset.describe() == (
        "9 points, 1 feature, target 'Species Name', classification, 2 classes; left out: 'id' (a different"
        " whole number in every row), 'constant' (the same value in every row)"
    )
    assert Dataset(X, X[:, :2], "d").describe() == "30 points, 4 features, target 'y', regression, 2 outputs"
    assert Dataset(X, X[:, :2], "d").names == ("x0", "x1", "x2", "x3")


@pytest.mark.parametrize(
    ("arrays", "options", "told"),
    [
        ({"x": np.where(X[3, 2] == X, np.nan, X), "y": LABELS}, {}, "nan in row 3"),
        ({"x": np.where(X[3, 2] == X, np.inf, X), "y": LABELS}, {"impute": "mean"}, "inf in row 3"),
        ({"x": np.where(X > 0, "high", "low"), "y": LABELS}, {}, "<U4"),
        ({"x": X + 1j, "y": LABELS}, {}, "complex128"),
        ({"x": np.ones_like(X), "y": LABELS}, {}, "constant data"),
        ({"x": X, "y": np.full(30, "same")}, {}, "constant data"),
        ({"x": X[:0], "y": LABELS[:0]}, {}, r"\(0, 4\)"),
        ({"x": X, "y": LABELS[:7]}, {}, "30 points but 7 targets"),
        ({"features": X, "y": LABELS}, {}, "'x'; it holds features, y"),
        ({"x": X[0], "y": LABELS}, {}, r"\(4,\)"),
        ({"x": np.zeros((30, 2, 2, 4)), "y": LABELS}, {}, r"\(30, 2, 2, 4\)"),
        ({"x": X, "y": np.full((30, 2), "a")}, {}, r"\(30, 2\), <U1"),
        ({"x": X, "y": np.array(3)}, {}, r"\(\)"),
        ({"x": X, "y": np.full((30, 2), np.inf)}, {}, "inf"),
        ({"x": X, "y": X[:, :2]}, {"task": "classification"}, "classes"),
        ({"x": X, "y": LABELS}, {"target": "z"}, "'z'; it holds x, y"),
        ({"x": X, "y": LABELS}, {"drop": ["a"]}, "--drop"),
        ({"x": X, "y": LABELS}, {"encode": "onehot"}, "--encode"),
        ({"x": X, "y": LABELS}, {"header": True}, "--header"),
        ({"x": X, "y": LABELS}, {"task": "ranking"}, "'ranking'; give classification, regression"),
        (None, {"target": "5"}, "'5'.*0 to 4"),
        (None, {"drop": ["label"], "target": "label"}, "'label'"),
        (None, {"drop": ["0", "1", "2", "3"]}, "no features left"),
        (None, {"impute": "magic"}, "'magic'.*mean, median, most_frequent"),
        (None, {"encode": "hash"}, "'hash'; give onehot, ordinal"),
    ],
)
def test_files_and_requests_that_give_no_data_are_named(arrays, options, told, tmp_path):
    path = tmp_path / "data.npz"
    if arrays is None:
        path = write(tmp_path, ".csv", X, LABELS)
    else:
        np.savez(path, **arrays)
    with pytest.raises(ValueError, match=told) as caught:
        load_file(path, **options)
    assert "\n" not in str(caught.value)


def test_arrays_that_do_not_fit_as_float64_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path, ".npz", X.astype(np.float32), LABELS)
    monkeypatch.setattr("qrt_tn.models.tables.memory_limit", lambda: 959)
    with pytest.raises(ValueError, match=r"as float64 takes .* quarter of the free"):
        load_file(path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((X, LABELS, "d", ("a", "b")), r"label 2, outside 0\.\.1"),
        ((X, LABELS * 1.0, "d", None), r"\(30,\)"),
        ((X, LABELS, "d", ("a", "b", "c"), (2, 3)), r"\(2, 3\)"),
        ((X, np.c_[X[:, 0], X[:, 0] * 0], "d"), "targets are the same"),
    ],
)
def test_data_that_do_not_fit_together_are_named(arguments, told):
    with pytest.raises(ValueError, match=told):
        Dataset(*arguments)


def test_digits_split_into_1200_237_and_360():
    parts = split(load_digits(), seed=0)
    assert [len(parts.train), len(parts.validation), len(parts.test)] == [1200, 237, 360]
    real = split(Dataset(X, X[:, :1], "real"), seed=0, validation=5, test=0.2)
    assert [len(real.train), len(real.validation), len(real.test)] == [19, 5, 6]


@pytest.mark.parametrize("seed", range(6))
def test_every_class_is_in_every_part_of_a_split(seed):
    rng = np.random.default_rng(seed)
    counts = rng.choice([3, 4, 30], 4)
    y = rng.permutation(np.repeat(np.arange(4), counts))
    dataset = Dataset(rng.normal(size=(len(y), 2)), y, "d", tuple("abcd"))
    sizes = list(map(int, rng.integers(4, len(y) // 2 - 1, 2)))
    parts = split(dataset, seed, *sizes)
    indices = [parts.train, parts.validation, parts.test]
    assert sorted(np.concatenate(indices)) == list(range(len(y)))
    assert [len(parts.validation), len(parts.test)] == sizes
    for part in indices:
        found = np.bincount(y[part], minlength=4)
        assert (found >= 1).all()
        assert (np.abs(found - counts * len(part) / len(y)) <= 3).all()
        assert (np.diff(part) > 0).all()
    assert np.array_equal(split(dataset, seed, *sizes).test, parts.test)
    assert not np.array_equal(split(dataset, seed + 1, *sizes).test, parts.test)


@pytest.mark.parametrize(
    ("y", "sizes", "told"),
    [
        (LABELS, {"validation": 0}, "validation is 0"),
        (LABELS, {"test": -0.1}, "test is -0.1"),
        (LABELS, {"test": 2.5}, "test is 2.5"),
        (LABELS, {"validation": 2}, "2 of 30 .* validation"),
        (LABELS, {"validation": 15, "test": 15}, "0 of 30 .* train"),
        (np.array([2, 2, *[0, 1] * 14]), {}, "'c'"),
    ],
)
def test_splits_that_cannot_be_are_named(y, sizes, told):
    with pytest.raises(ValueError, match=told):
        split(Dataset(X, y, "d", ("a", "b", "c")), seed=0, **sizes)


def test_one_hot_targets_are_centred():
    targets, plain = one_hot(LABELS[:20], 3), one_hot(LABELS[:20], 3, centre=False)
    np.testing.assert_array_equal(plain, np.arange(3) == LABELS[:20, None])
    np.testing.assert_allclose(targets, plain - plain.mean(axis=0))
    for wrong in (np.array([0, 3]), np.array([-1, 0]), np.array([0.0]), np.array([], dtype=int)):
        with pytest.raises(ValueError, match=r"y holds label (3|-1)|float64|int64"):
            one_hot(wrong, 3)
