"""The data of the risk experiment by name: digits, sets of images, or a file."""

from pathlib import Path

import numpy as np

from qrt_tn.models import Dataset, load_digits, load_file
from qrt_tn.models.images import IMAGE_SETS, load_images
from qrt_tn.studies.experiments.catalogue import UnavailableError


def load_named(data: str) -> Dataset:
    """A data set.

    Images of a set that has a test set of its own are put together again: each seed splits anew.

    Args:
        data: "digits", another of `qrt_tn.models.images.IMAGE_SETS`, or the path of a file.

    Raises:
        UnavailableError: a set or a file that this machine has not.
        ValueError: a file that cannot be used.
    """
    if data == "digits":
        return load_digits()
    if data not in IMAGE_SETS:
        if not Path(data).is_file():
            raise UnavailableError(
                f"there is no file {data} here; put it there, or name one of {', '.join(IMAGE_SETS)}"
            )
        return load_file(data)
    try:
        images = load_images(data)
    except ValueError as error:
        raise UnavailableError(str(error)) from error
    x = np.concatenate([images.x, images.x_test])
    height, width, channels = images.image_shape
    return Dataset(
        x.reshape(len(x), -1),
        np.concatenate([images.y, images.y_test]),
        images.name,
        images.classes,
        (height, width) if channels == 1 else None,
    )
