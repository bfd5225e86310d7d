from typing import get_args

import numpy as np
import pytest

from qrt_tn.models.images import Images
from qrt_tn.studies.experiments.catalogue import UnavailableError
from qrt_tn.studies.experiments.tickets import data
from qrt_tn.studies.experiments.tickets.data import Points, Problem, load
from qrt_tn.studies.experiments.tickets.settings import Tickets

NAMES = get_args(Tickets.model_fields["data"].annotation)
SIZES = {
    "digits": (1200, 237, 360),
    "wine": (106, 35, 37),
    "diabetes": (265, 88, 89),
    "large": (60_000, 20_000),
}


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(256, size=(9000, 2, 3, 1), dtype=np.uint8)
    y = np.arange(9000) % 10
    images = Images(x[:8500], y[:8500], x[8500:], y[8500:], "fashion-mnist", tuple("abcdefghij"))
    monkeypatch.setattr(data, "load_images", lambda name: images)


def rows(points: Points) -> set[bytes]:
    return {row.tobytes() for row in np.column_stack([points.x, points.y])}


@pytest.mark.parametrize("name", NAMES)
def test_parts_share_no_points_and_seeds_split_anew(name: str) -> None:
    first, again, other = load(name, 0), load(name, 0), load(name, 1)
    parts = first.train, first.validation, first.test
    sizes = tuple(len(part.x) for part in parts)
    assert sizes[: len(SIZES.get(name, ()))] == SIZES.get(name, ())
    if name.startswith("fashion"):
        assert sizes == (5000 if name == "fashion-5000" else 6500, 2000, 500)
        np.testing.assert_array_equal(first.test.x, other.test.x)
        np.testing.assert_array_equal(first.test.y, other.test.y)
    else:
        distinct = [rows(part) for part in parts]
        # no data set but the digits has a row twice
        assert len(set().union(*distinct)) == sum(sizes)
        whole = [np.concatenate([part.y for part in (p.both, p.test)]) for p in (first, other)]
        np.testing.assert_array_equal(np.sort(whole[0]), np.sort(whole[1]))
        assert distinct[2] != rows(other.test)
    np.testing.assert_array_equal(first.train.x, again.train.x)
    assert not np.array_equal(first.validation.x, other.validation.x)
    assert len(first.both.x) == sizes[0] + sizes[1]
    assert first.classes == (len(np.unique(first.both.y)) if first.both.y.dtype.kind == "i" else 0)


@pytest.mark.parametrize("name", ["wine", "fashion-5000"])
def test_a_rare_class_is_in_every_part(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    if name == "wine":
        table = rng.normal(size=(100, 2)), np.array([2] * 5 + [0, 1] * 47 + [0])
        monkeypatch.setattr(data, "_table", lambda name: table)
    else:
        x, y = rng.integers(256, size=(9000, 2, 3, 1), dtype=np.uint8), np.arange(9000) % 2
        y[:14] = 2
        images = Images(x, y, x, y, "fashion-mnist", ("a", "b", "c"))
        monkeypatch.setattr(data, "load_images", lambda name: images)
    for seed in range(20):
        problem = load(name, seed)
        for part in (problem.train, problem.validation):
            assert (np.bincount(part.y, minlength=3) > 0).all()
        assert name == "wine" or (problem.validation.y == 2).sum() in (3, 4)
        assert name != "wine" or (np.bincount(problem.test.y, minlength=3) > 0).all()


def test_losses() -> None:
    train, test = (
        Points(np.zeros((4, 1)), np.array([1.0, 3, 5, 7])),
        Points(np.zeros((2, 1)), np.array([2.0, 6])),
    )
    numbers = Problem(train, train, test)
    np.testing.assert_allclose(numbers.predictions(numbers.targets(test)), test.y)
    assert numbers.loss(np.array([4.0, 4.0]), test) == pytest.approx(1)
    labels = Points(np.zeros((3, 1)), np.array([0, 2, 1]))
    named = Problem(labels, labels, labels, classes=3)
    np.testing.assert_array_equal(named.predictions(named.targets(labels)), labels.y)
    assert named.loss(np.array([0, 1, 1]), labels) == pytest.approx(1 / 3)


def test_images_that_are_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ValueError("no data of fashion-mnist on this machine")

    monkeypatch.setattr(data, "load_images", missing)
    with pytest.raises(UnavailableError, match="no data of fashion-mnist"):
        load("fashion", 0)
