"""Files in every format, their splits, and everything that can be wrong with them."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from qrt_tn.models.datasets import Dataset, load_digits, load_file, one_hot, split

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4))
LABELS = np.arange(30) % 3


def table(x, y, name="label"):
    columns = {f"feature {i}": column for i, column in enumerate(x.T)}
    return pa.table({**columns, name: y})


def write(folder, suffix, x, y):
    path = folder / f"data{suffix}"
    if suffix == ".npz":
        np.savez(path, x=x, y=y)
    elif suffix == ".csv":
        pa.csv.write_csv(table(x, y), path)
    else:
        pa.parquet.write_table(table(x, y), path)
    return path


def test_digits_are_eight_by_eight_and_seventeen_grey_levels():
    digits = load_digits()
    assert digits.x.shape == (1797, 64)
    assert set(np.unique(digits.x)) == set(range(17))
    assert digits.classes == tuple("0123456789")
    assert (digits.image_shape, digits.outputs, digits.dim, len(digits)) == ((8, 8), 10, 64, 1797)


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_every_format_gives_the_same_data(suffix, tmp_path):
    names = np.array(["zebra", "ant", "cow"])[LABELS]
    dataset = load_file(write(tmp_path, suffix, X, names))
    np.testing.assert_allclose(dataset.x, X, rtol=1e-12)
    assert dataset.classes == ("ant", "cow", "zebra")
    assert [dataset.classes[label] for label in dataset.y] == list(names)
    assert (dataset.name, dataset.image_shape, dataset.outputs) == ("data", None, 3)
    numbers = load_file(write(tmp_path, suffix, X, LABELS * 10 - 5))
    assert numbers.classes == ("-5", "5", "15")
    np.testing.assert_array_equal(numbers.y, LABELS)
    real = load_file(write(tmp_path, suffix, X, X[:, 0] ** 2))
    np.testing.assert_allclose(real.y, X[:, :1] ** 2, rtol=1e-12)
    assert real.classes is None


def test_whole_numbers_are_labels_only_if_they_are_few(tmp_path):
    x = RNG.normal(size=(400, 2))
    few, many = np.arange(400.0) % 100, np.arange(400.0) % 101
    assert len(load_file(write(tmp_path, ".npz", x, few)).classes) == 100
    dataset = load_file(write(tmp_path, ".npz", x, many))
    assert dataset.classes is None
    np.testing.assert_array_equal(dataset.y, many[:, None])


def test_an_npz_file_may_hold_images_and_several_targets(tmp_path):
    path = tmp_path / "images.npz"
    images = RNG.normal(size=(20, 3, 5))
    np.savez(path, x=images, energy=RNG.normal(size=(20, 2)), y=np.arange(20) % 2)
    dataset = load_file(path, target="energy")
    assert dataset.image_shape == (3, 5)
    np.testing.assert_array_equal(dataset.x, images.reshape(20, 15))
    assert dataset.y.shape == (20, 2)
    assert load_file(path).classes == ("0", "1")


def test_a_column_can_be_the_target_by_name(tmp_path):
    path = tmp_path / "data.parquet"
    pa.parquet.write_table(
        pa.table({"kind": pa.array(["a", "b"] * 5).dictionary_encode(), "x": range(10)}), path
    )
    dataset = load_file(path, target="kind")
    assert dataset.classes == ("a", "b")
    np.testing.assert_array_equal(dataset.x[:, 0], np.arange(10))


def test_a_csv_file_needs_no_header(tmp_path):
    path = tmp_path / "data.csv"
    np.savetxt(path, np.column_stack([X, LABELS]), delimiter=",")
    dataset = load_file(path)
    assert len(dataset) == 30
    np.testing.assert_allclose(dataset.x, X)
    np.testing.assert_array_equal(dataset.y, LABELS)


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
@pytest.mark.parametrize("content", [b"", b"\x00\x01garbage\xff\n1,2\n3", b"PK\x03\x04torn"])
def test_malformed_files_are_named(suffix, content, tmp_path):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken") as caught:
        load_file(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.where(X[3, 2] == X, np.nan, X), LABELS, "nan|missing"),
        (np.where(X[3, 2] == X, np.inf, X), LABELS, "inf"),
        (np.where(X > 0, "high", "low"), LABELS, "numbers"),
        (np.ones_like(X), LABELS, "constant data"),
        (X, np.zeros(30, dtype=int), "constant data"),
        (X, np.full(30, "same"), "constant data"),
        (X, np.where(LABELS == 0, np.nan, 0.5), "nan|missing"),
        (X[:0], LABELS[:0], "empty"),
    ],
)
def test_bad_content_is_named_in_one_line(suffix, x, y, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        load_file(write(tmp_path, suffix, x, y))
    assert "\n" not in str(caught.value)


def test_bad_requests_are_named(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        load_file(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"\.npz, \.csv, \.parquet"):
        load_file(tmp_path / "data.txt")
    with pytest.raises(ValueError, match="no array 'z'; it holds x, y"):
        load_file(write(tmp_path, ".npz", X, LABELS), target="z")
    for suffix in (".csv", ".parquet"):
        with pytest.raises(ValueError, match="no column 'z'"):
            load_file(write(tmp_path, suffix, X, LABELS), target="z")
    path = tmp_path / "bad.npz"
    np.savez(path, x=X, y=LABELS[:7])
    with pytest.raises(ValueError, match="30 points but 7 targets"):
        load_file(path)
    np.savez(path, x=X, y=np.array([{}] * 30, dtype=object))
    with pytest.raises(ValueError, match=r"bad\.npz is not a whole npz file"):
        load_file(path)
    np.savez(path, features=X, y=LABELS)
    with pytest.raises(ValueError, match="no array 'x'"):
        load_file(path)
    pa.parquet.write_table(pa.table({"x": [1.0, None], "y": [0, 1]}), tmp_path / "gap.parquet")
    with pytest.raises(ValueError, match="'x' has 1 missing"):
        load_file(tmp_path / "gap.parquet")
    (tmp_path / "one.csv").write_text("x\n1\n2\n")
    with pytest.raises(ValueError, match="no features"):
        load_file(tmp_path / "one.csv")
    for arguments, message in [
        ((X, LABELS, "d", ("a", "b")), "label 2 is outside 0..1"),
        ((X, LABELS * 1.0, "d", None), "real targets have shape"),
        ((X, LABELS, "d", ("a", "b", "c"), (2, 3)), "images of"),
    ]:
        with pytest.raises(ValueError, match=message):
            Dataset(*arguments)


def test_digits_split_into_1200_237_and_360_stratified():
    digits = load_digits()
    parts = split(digits, seed=0)
    sizes = [len(parts.train), len(parts.validation), len(parts.test)]
    assert sizes == [1200, 237, 360]
    together = np.concatenate([parts.train, parts.validation, parts.test])
    np.testing.assert_array_equal(np.sort(together), np.arange(1797))
    share = np.bincount(digits.y) / 1797
    for part in (parts.train, parts.validation, parts.test):
        assert np.abs(np.bincount(digits.y[part]) - share * len(part)).max() <= 1
    again, other = split(digits, seed=0), split(digits, seed=1)
    np.testing.assert_array_equal(parts.test, again.test)
    assert len(np.intersect1d(parts.test, other.test)) < 150


def test_sizes_can_be_counts_or_shares_and_real_targets_split_too():
    dataset = Dataset(X, X[:, :1], "real")
    parts = split(dataset, seed=0, validation=5, test=0.2)
    assert [len(parts.train), len(parts.validation), len(parts.test)] == [19, 5, 6]


def test_splits_that_cannot_be_are_named():
    dataset = Dataset(X, LABELS, "d", ("a", "b", "c"))
    for arguments, message in [
        ({"validation": 0}, "validation is 0"),
        ({"test": -0.1}, "test is -0.1"),
        ({"test": 2.5}, "test is 2.5"),
        ({"validation": 2}, "2 of 30 points would be left for validation; it needs 3"),
        ({"validation": 15, "test": 15}, "0 of 30 points would be left for train"),
    ]:
        with pytest.raises(ValueError, match=message):
            split(dataset, seed=0, **arguments)
    rare = Dataset(X, np.array([2, 2, *[0, 1] * 14]), "d", ("a", "b", "rare"))
    with pytest.raises(ValueError, match="class 'rare' has 2 points"):
        split(rare, seed=0)


def test_one_hot_targets_are_centred():
    targets = one_hot(LABELS[:20], 3)
    np.testing.assert_allclose(targets.sum(axis=0), 0, atol=1e-12)
    plain = one_hot(LABELS[:20], 3, centre=False)
    np.testing.assert_array_equal(plain.argmax(axis=1), LABELS[:20])
    np.testing.assert_array_equal(plain.sum(axis=1), 1)
    np.testing.assert_allclose(targets - plain, np.tile(-plain.mean(axis=0), (20, 1)))
    for y, message in [
        (np.array([0, 3]), "y holds 3"),
        (np.array([-1, 0]), "y holds -1"),
        (np.array([0.0]), "labels of shape"),
        (np.array([], dtype=int), "labels of shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            one_hot(y, 3)
