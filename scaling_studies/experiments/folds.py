"""One seed's share of a data set: its split, its grid points, and the targets to learn."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qrt_tn import Quantizer
from qrt_tn.models import Dataset, Split, load_digits, load_file, one_hot, split
from qrt_tn.studies.experiments.grid import GridConfig

_KEPT = 20  # sets the choice of training points apart from other draws of a seed


@dataclass(frozen=True, eq=False)
class Fold:
    """Everything that one seed learns from.

    Attributes:
        seed: the seed of the split, the nodes and the training order.
        split: indices of the training, validation and test points.
        quantizer: fitted on the training points.
        grid: all points on Z_P^D, int64, shape (M, D).
        scaled: all points standardised by the training points, float64, shape (M, features); what
            networks with real weights see.
        labels: class labels, shape (M,), or None for real targets.
        targets: unit vectors of the labels, or real targets standardised by the training points, (M, C).
    """

    seed: int
    split: Split
    quantizer: Quantizer
    grid: np.ndarray
    scaled: np.ndarray
    labels: np.ndarray | None
    targets: np.ndarray

    @property
    def outputs(self) -> int:
        """The number C of outputs."""
        return self.targets.shape[1]

    @property
    def state_targets(self) -> np.ndarray:
        """The training targets less their mean, so that no node is spent on a = 0; shape (train, C)."""
        training = self.targets[self.split.train]
        return training - training.mean(axis=0)

    @property
    def learned(self) -> np.ndarray:
        """What a training loss compares with: labels where there are any, else targets; length M."""
        return self.targets if self.labels is None else self.labels

    def scores(self, outputs: np.ndarray) -> dict[str, float | None]:
        """Accuracy (None for real targets) and squared error summed over outputs, of each part.

        Args:
            outputs: a network's outputs at all points, shape (M, C).
        """
        found: dict[str, float | None] = {}
        for part in ("train", "validation", "test"):
            at = getattr(self.split, part)
            found[f"{part}_risk"] = float(np.square(outputs[at] - self.targets[at]).sum(axis=1).mean())
            right = None if self.labels is None else outputs[at].argmax(axis=1) == self.labels[at]
            found[f"{part}_accuracy"] = None if right is None else float(right.mean())
        return found


def load_dataset(data: Path | None, target: str | None) -> Dataset:
    """The user's file, or scikit-learn's digits."""
    return load_digits() if data is None else load_file(data, target)


def make_folds(dataset: Dataset, config: GridConfig) -> list[Fold]:
    """Split, quantise and standardise the data for every seed.

    Raises:
        ValueError: too few points for the split, or features that the quantiser cannot take.
    """
    return [make_fold(dataset, config, seed) for seed in range(config.seeds)]


def make_fold(dataset: Dataset, config: GridConfig, seed: int, points: int | None = None) -> Fold:
    """Split, quantise and standardise the data for one seed.

    Args:
        dataset: the data.
        config: the settings; its own number of seeds does not matter here.
        seed: of the split.
        points: training points to keep, the first of a random order of them; None for all.

    Raises:
        ValueError: as `make_folds`, or more points than there are.
    """
    parts = split(dataset, seed)
    if points is not None:
        if not 1 <= points <= len(parts.train):
            raise ValueError(
                f"points is {points}; give 1 to {len(parts.train)}, the training points there are"
            )
        order = np.random.default_rng([seed, _KEPT]).permutation(parts.train)
        parts = replace(parts, train=np.sort(order[:points]))
    pixels = dataset.image_shape is not None
    kind = config.quantiser if config.quantiser != "auto" else "uniform" if pixels else "quantile"
    # pixels share one grey scale; other features each have their own
    scope = "global" if pixels and kind == "uniform" else "feature"
    quantizer = Quantizer(kind, config.levels, config.modulus, config.components, scope)
    training = dataset.x[parts.train]
    quantizer.fit(training)
    spread = training.std() if pixels else training.std(axis=0)
    scaled = (dataset.x - training.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    labels = None if dataset.classes is None else dataset.y
    if labels is None:
        known = dataset.y[parts.train]
        deviation = known.std(axis=0)
        targets = (dataset.y - known.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    else:
        targets = one_hot(labels, dataset.outputs, centre=False)
    return Fold(seed, parts, quantizer, quantizer.transform(dataset.x), scaled, labels, targets)
