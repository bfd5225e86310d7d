"""The data by name, each split by the seed into training, validation and test points."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn.datasets as made

from qrt_tn.models import Dataset, split
from qrt_tn.models.images import load_images
from qrt_tn.models.splits import draw_stratified
from qrt_tn.studies.experiments.catalogue import UnavailableError

DIGITS = 1200, 237  # training and validation points; the other 360 are the test
FASHION_VALIDATION = 2000  # of the 60,000 training images


@dataclass(frozen=True, eq=False)
class Points:
    """Points and their targets.

    Attributes:
        x: real, (M, D).
        y: labels 0 .. C-1, int64, (M,); or numbers, float64, (M,) or (M, C).
    """

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True, eq=False)
class Problem:
    """One split of a data set.

    Attributes:
        train: what settings are fitted to while they are being chosen.
        validation: what they are chosen by.
        test: for the score alone.
        classes: how many; 0 where targets are numbers.
        images: whether all inputs are pixels, which share one scale.
    """

    train: Points
    validation: Points
    test: Points
    classes: int = 0
    images: bool = False

    @property
    def both(self) -> Points:
        """Training and validation points, for the last fit."""
        parts = self.train, self.validation
        return Points(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))

    def targets(self, points: Points) -> np.ndarray:
        """What outputs are fitted to, (M, C): a column of 0 and 1 a class, or standardised numbers."""
        if self.classes:
            return np.eye(self.classes)[points.y]
        return (points.y.reshape(len(points.y), -1) - self._means) / self._scales

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Labels (M,), or numbers of the shape of the targets, from outputs fitted to targets."""
        if self.classes:
            return np.asarray(outputs.argmax(axis=1))
        return (outputs * self._scales + self._means).reshape(-1, *self.train.y.shape[1:])

    def loss(self, predictions: np.ndarray, points: Points) -> float:
        """The share of errors, or the squared error over the variance of the targets, a mean over outputs."""
        if self.classes:
            return float((predictions != points.y).mean())
        errors = np.square(predictions - points.y).mean(axis=0)
        return float((errors / points.y.var(axis=0)).mean())

    @property
    def _means(self) -> np.ndarray:
        return np.asarray(self.train.y.mean(axis=0))

    @property
    def _scales(self) -> np.ndarray:
        spread = self.train.y.std(axis=0)
        return np.where(spread > 0, spread, 1.0)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a method has learnt.

    Attributes:
        predict: labels or numbers, (M,), at points (M, D).
        fit_seconds: of the last fit alone; None where it is not known.
        width: chosen; None where there is none.
        beta: chosen; None where there is none.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    fit_seconds: float | None = None
    width: float | None = None
    beta: float | None = None


def load(name: str, seed: int) -> Problem:
    """A set of data, split.

    Tables are split 60, 20 and 20 parts in a hundred, the digits 1,200, 237 and 360, each class alike, at
    random. Fashion-MNIST
    keeps its 10,000 test images; 2,000 of the others are for validation, and "fashion-5000" trains on 5,000
    of the rest. "california-like" is made up: scales, skews and two bumps like those of the California
    housing data. "large" is a classification of 100,000 rows, of 20 features, 10 of which tell something.

    Args:
        name: one of those that `settings.Tickets` names.
        seed: of the split; the data themselves are always the same.

    Raises:
        UnavailableError: Fashion-MNIST is not on this machine.
    """
    rng = np.random.default_rng([seed, 41])
    if name.startswith("fashion"):
        return _fashion(5000 if name == "fashion-5000" else None, rng)
    x, y = _table(name)
    classes = int(y.max()) + 1 if y.dtype.kind in "iu" else 0
    y = y.astype(np.int64 if classes else np.float64)
    dataset = Dataset(
        x, y if classes else y.reshape(len(y), -1), name, tuple(map(str, range(classes))) or None
    )
    train, validation = DIGITS if name == "digits" else (int(0.6 * len(y)), int(0.2 * len(y)))
    parts = split(dataset, rng, validation, len(y) - train - validation)
    order = [rng.permutation(part) for part in (parts.train, parts.validation, parts.test)]
    learnt, aside, test = (Points(x[part], y[part]) for part in order)
    return Problem(learnt, aside, test, classes, images=name == "digits")


def _table(name: str) -> tuple[np.ndarray, np.ndarray]:
    given: dict[str, Any] = {"n_features": 20, "n_informative": 10, "n_classes": 3, "random_state": 0}
    tables = {
        "digits": lambda: made.load_digits(return_X_y=True),
        "friedman1": lambda: made.make_friedman1(3000, noise=0.5, random_state=0),
        "friedman2": lambda: made.make_friedman2(3000, noise=20.0, random_state=0),
        "friedman3": lambda: made.make_friedman3(3000, noise=0.05, random_state=0),
        "classification": lambda: made.make_classification(4000, **given),
        "wine": lambda: made.load_wine(return_X_y=True),
        "breast-cancer": lambda: made.load_breast_cancer(return_X_y=True),
        "diabetes": lambda: made.load_diabetes(return_X_y=True),
        "california-like": _california_like,
        "large": lambda: made.make_classification(100_000, n_clusters_per_class=4, **given),
    }
    return tables[name]()


def _california_like() -> tuple[np.ndarray, np.ndarray]:
    rng, n = np.random.default_rng(0), 5000
    income, age = rng.lognormal(1.2, 0.45, n), rng.integers(1, 53, n)
    rooms, bedrooms = rng.lognormal(1.6, 0.25, n), rng.lognormal(0.05, 0.12, n)
    population, occupancy = rng.lognormal(7, 0.7, n), rng.lognormal(1.05, 0.25, n)
    latitude, longitude = rng.uniform(32.5, 42, n), rng.uniform(-124, -114.3, n)
    south = np.exp(-((latitude - 34) ** 2 + (longitude + 118.3) ** 2) / 0.8)
    north = np.exp(-((latitude - 37.7) ** 2 + (longitude + 122.3) ** 2) / 0.6)
    y = 0.45 * income + 0.009 * age - 0.1 * rooms + 0.8 * bedrooms - 0.3 * np.log(occupancy)
    y += 1.2 * south + 1.5 * north + rng.normal(0, 0.15, n)
    return np.c_[income, age, rooms, bedrooms, population, occupancy, latitude, longitude], y


def _fashion(train: int | None, rng: np.random.Generator) -> Problem:
    try:
        images = load_images("fashion-mnist")
    except ValueError as error:
        raise UnavailableError(str(error)) from error
    validation, rest = draw_stratified(images.y, FASHION_VALIDATION, rng)

    def points(x: np.ndarray, y: np.ndarray) -> Points:
        return Points(x.reshape(len(x), -1).astype(np.float64), y)

    def taken(rows: np.ndarray) -> Points:
        return points(images.x[rows], images.y[rows])

    test = points(images.x_test, images.y_test)
    return Problem(taken(rest[:train]), taken(validation), test, images.outputs, images=True)
