"""Sets of images by name: in the user's folder, among Debian's files, or downloaded."""

import importlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qrt_tn.models.image_files import Labelled, read_images
from qrt_tn.models.tables import first_line

FOLDER_VARIABLE = "QRT_TN_DATA"
# Where Debian's package dataset-fashion-mnist puts its files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


class _Source(NamedTuple):
    """What a named set is, where the `datasets` library finds it, and its folder's name in torchvision."""

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    repository: str
    folder: str
    image: str = "image"
    label: str = "label"


_FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"]
_CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_GREY, _COLOUR = (28, 28, 1), (32, 32, 3)
SOURCES = {
    "mnist": _Source(_GREY, tuple("0123456789"), "ylecun/mnist", "MNIST"),
    "fashion-mnist": _Source(
        _GREY, (*_FASHION, "Ankle boot"), "zalando-datasets/fashion_mnist", "FashionMNIST"
    ),
    "cifar10": _Source(_COLOUR, tuple(_CIFAR10), "uoft-cs/cifar10", "cifar-10-batches-bin", "img"),
    "cifar100": _Source(
        _COLOUR, tuple(map(str, range(100))), "uoft-cs/cifar100", "cifar-100-binary", "img", "fine_label"
    ),
}


def load_named(name: str) -> Labelled:
    """A named set, from the first place that has it."""
    source = SOURCES[name]
    root = os.environ.get(FOLDER_VARIABLE, "")
    if root and not Path(root).is_dir():
        raise ValueError(f"{FOLDER_VARIABLE} is {root!r}, which is no folder; correct or unset it")
    places = [Path(root) / name, Path(root) / source.folder] if root else []
    if name == "fashion-mnist":
        places.append(DEBIAN_FASHION_MNIST)
    place = next(filter(Path.is_dir, places), None)
    found = _download(name, source) if place is None else read_images(place, source.classes)
    shape, classes = found.parts[0][0].shape[1:], len(found.classes)
    if shape != source.shape or classes != len(source.classes):
        raise ValueError(
            f"{place or source.repository} should hold {name}, {len(source.classes)} classes of images of"
            f" shape {source.shape}, not {classes} of {shape}; load your own data by their path"
        )
    return found


def _download(name: str, source: _Source) -> Labelled:
    """A named set through the `datasets` library, which keeps it for the next time."""
    try:
        # an optional part, which runs no code of a data set and is handed no consent to do so
        library: Any = importlib.import_module("datasets")
        tables = [library.load_dataset(source.repository, split=part) for part in ("train", "test")]
        images = [np.stack([np.asarray(image) for image in table[source.image]]) for table in tables]
        labels = [np.array(list(table[source.label]), dtype=np.int64) for table in tables]
        classes = tuple(tables[0].features[source.label].names)
    except Exception as error:  # a network fails in many ways, each with an error of its own
        debian = ", or on Debian run: apt-get install dataset-fashion-mnist"
        raise ValueError(
            f"no data of {name} on this machine, and {source.repository} could not be loaded"
            f" ({first_line(error)}); connect to a network and run: pip install 'qrt-tn[data]'; or put its"
            f" IDX, npz or binary files in the folder {name} of a folder that {FOLDER_VARIABLE} names"
            + (debian if name == "fashion-mnist" else "")
        ) from error
    parts = [(x.reshape(*x.shape[:3], -1), y) for x, y in zip(images, labels, strict=True)]
    return Labelled(parts, classes)
