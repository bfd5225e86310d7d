"""Labelled images: the lottery-ticket studies' sets by name, or the user's own files, and their folds."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from qrt_tn.engine.arguments import Seed, check_whole, generator
from qrt_tn.models.datasets import load_digits
from qrt_tn.models.image_files import Labelled, read_images
from qrt_tn.models.image_sets import SOURCES, load_named
from qrt_tn.models.splits import TEST_SHARE, draw_stratified
from qrt_tn.models.targets import check_labels

IMAGE_SETS = ("digits", *SOURCES)
VALIDATION_POINTS = 5_000  # of MNIST's 60,000, as in Frankle and Carbin (ICLR 2019)
_BATCH = 4_096  # images worked on at once, to bound the memory


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images, for training and for the test.

    >>> load_images("digits").describe()
    'digits: 1,797 images of 8 x 8 x 1 in 10 classes: 1,437 for training, 360 for the test, drawn at random'

    Attributes:
        x: pixels for training, shape (M, H, W, C), uint8; x_test: likewise for the test.
        y: labels 0 .. classes-1, shape (M,), int64; y_test: likewise.
        white: the largest value that a pixel can have.
        notes: what of their reading is worth telling.
    """

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    name: str
    classes: tuple[str, ...]
    white: int = 255
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for part, x, y in (("", self.x, self.y), ("_test", self.x_test, self.y_test)):
            labels = _check_part(f"{self.name}: x{part}", x, y, self.white, len(self.classes))
            object.__setattr__(self, f"y{part}", labels)
        if self.x.shape[1:] != self.x_test.shape[1:]:
            shapes = f"{self.x.shape[1:]} for training, {self.x_test.shape[1:]} for the test"
            raise ValueError(f"{self.name}: images of shape {shapes}; bring both to one shape")
        if (self.y == self.y[0]).all():
            raise ValueError(f"{self.name}: all training images are of class {self.y[0]}; give two or more")

    def __len__(self) -> int:
        """The number M of training images."""
        return len(self.x)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.x.shape[1:]

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return len(self.classes)

    def describe(self) -> str:
        """How many images were read, of what shape, and what was left out, in a line."""
        counts = f"{len(self.x):,} for training, {len(self.x_test):,} for the test"
        every, shape = len(self.x) + len(self.x_test), " x ".join(map(str, self.image_shape))
        told = f"{self.name}: {every:,} images of {shape} in {self.outputs} classes: {counts}"
        return ", ".join([told, *self.notes])


@dataclass(frozen=True, eq=False)
class ImageFold:
    """What one trial learns from, chooses settings and the time to stop by, and is tested on.

    Each x is standardised pixels, float32, (M, H, W, C) or, if flat, (M, H*W*C); each y labels, int32.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_images(source: str | Path, *, seed: Seed = 0) -> Images:
    """Load a set of labelled images by name, or from local files.

    A name of IMAGE_SETS wins over a file of that name (write "./mnist" for the latter). "digits" are
    scikit-learn's, always at hand. Any other named set is looked for in the subfolder of its name in the
    folder that the environment variable QRT_TN_DATA names; fashion-mnist then among the files of Debian's
    package dataset-fashion-mnist; and last with the optional `datasets` library, which downloads it.

    Local files have the formats of `image_files.read_images`. Where a source has no test set, one is
    split off at random by the seed, stratified, with the digits' usual share (360 of 1,797); the digits of an
    int seed have the test points that `qrt_tn.models.split` gives them.

    Raises:
        ValueError: no name or path, a named set that is nowhere to be had, files that cannot be read, or bad
            content.
    """
    name, white = str(source), 255
    if not name or not isinstance(source, str | os.PathLike):
        raise ValueError(f"source is {source!r}; give one of {', '.join(IMAGE_SETS)}, or a path")
    if source == "digits":
        digits, white = load_digits(), 16
        parts = [(digits.x.astype(np.uint8).reshape(-1, 8, 8, 1), digits.y)]
        found = Labelled(parts, digits.classes or ())
    elif source in SOURCES:
        found = load_named(name)
    else:
        path = Path(source)
        if not path.exists():
            raise ValueError(
                f"{name!r} is no data set and does not exist; give one of {', '.join(IMAGE_SETS)}, or a path"
            )
        found = read_images(path)
        name = path.stem if path.is_file() else path.resolve().name
    parts, classes, notes = found
    if len(parts) == 1:
        x, y = parts[0]
        y = _check_part(f"{name}: x", x, y, white, len(classes))
        members = np.bincount(y)
        if 1 in members:
            rare = classes[members.tolist().index(1)]
            raise ValueError(f"{name}: class {rare!r} has one image; give 2 or more")
        # as splits.split draws it
        kept, test = train_test_split(
            np.arange(len(y)),
            test_size=max(round(TEST_SHARE * len(y)), np.count_nonzero(members)),
            stratify=y,
            random_state=int(generator(seed).integers(2**31)),
        )
        parts = [(x[part], y[part]) for part in (np.sort(kept), np.sort(test))]
        notes = ("drawn at random", *notes)
    return Images(*parts[0], *parts[1], name, classes, white, notes)


def fold(
    images: Images,
    seed: Seed,
    validation: int | None = None,
    points: int | None = None,
    flat: bool = False,
) -> ImageFold:
    """Set validation points aside at random, stratified by class, and standardise the pixels.

    The validation points come from the training set, as in J. Frankle and M. Carbin, "The Lottery Ticket
    Hypothesis" (ICLR 2019); here each class gives its share and keeps at least one image for training. From a
    pixel the mean of its channel over the training points is subtracted, and the result divided by their
    deviation (by white in a constant channel): this project's choice, as the paper does not tell its own.

    Args:
        images: the data.
        seed: an int or a Generator.
        validation: how many; by default 5,000, or a sixth of the training set where that is fewer.
        points: how many training points to keep, by default all. Fewer points of the same seed are the
            first of more, and the validation points stay.
        flat: whether to give vectors instead of images.

    Returns:
        Points for training and for validation in random order, those for the test in their own.

    Raises:
        ValueError: not a number of points, or none of some class left for training.
    """
    total = len(images)
    most = total - len(np.unique(images.y))
    if not most:
        raise ValueError(f"{images.name} has one image of each class, and none for validation; add some")
    if validation is None:
        validation = max(1, min(VALIDATION_POINTS, total // 6, most))
    check_whole("validation", validation)
    for name, value, bound in (("validation", validation, most), ("points", points, total - validation)):
        if value is not None:
            check_whole(name, value)
            if value > bound:
                raise ValueError(f"{name} is {value}; give a whole number from 1 to {bound}")
    aside, kept = draw_stratified(images.y, validation, seed)
    kept = kept[:points]
    table = _standard_levels(images.x, kept, images.white)

    def standardised(x: np.ndarray, index: np.ndarray) -> np.ndarray:
        result = np.empty((len(index), *x.shape[1:]), dtype=np.float32)
        for start in range(0, len(index), _BATCH):
            here = slice(start, start + _BATCH)
            result[here] = table[np.arange(x.shape[3]), x[index[here]]]
        return result.reshape(len(index), -1) if flat else result

    return ImageFold(
        x_train=standardised(images.x, kept),
        y_train=images.y[kept].astype(np.int32),
        x_validation=standardised(images.x, aside),
        y_validation=images.y[aside].astype(np.int32),
        x_test=standardised(images.x_test, np.arange(len(images.x_test))),
        y_test=images.y_test.astype(np.int32),
    )


def _check_part(name: str, x: np.ndarray, y: np.ndarray, white: int, classes: int) -> np.ndarray:
    """The labels as int64."""
    if x.ndim != 4 or x.size == 0 or x.dtype != np.uint8:
        raise ValueError(f"{name} has shape {x.shape}, {x.dtype}; give (images, H, W, C), uint8, not empty")
    if x.max() > white:
        raise ValueError(f"{name} holds {x.max()}, above white, which is {white}")
    if len(x) != len(y):
        raise ValueError(f"{name} has {len(x)} images but {len(y)} labels; give one an image")
    return check_labels(f"{name}'s y", y, classes)


def _standard_levels(x: np.ndarray, index: np.ndarray, white: int) -> np.ndarray:
    """What each of the 256 pixel values becomes in each channel, float32, shape (channels, 256).

    Counting the values of x[index] gives their mean and deviation exactly, without a float copy of all.
    """
    counts = np.zeros((x.shape[-1], 256), dtype=np.int64)
    for start in range(0, len(index), _BATCH):
        part = x[index[start : start + _BATCH]]
        for channel in range(x.shape[-1]):
            counts[channel] += np.bincount(part[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / white
    table = np.empty(counts.shape, dtype=np.float32)
    for row, count in zip(table, counts, strict=True):
        mean = count @ levels / count.sum()
        constant = np.count_nonzero(count) == 1
        deviation = 1 if constant else np.sqrt(count @ (levels - mean) ** 2 / count.sum())
        row[:] = (levels - mean) / deviation
    return table
