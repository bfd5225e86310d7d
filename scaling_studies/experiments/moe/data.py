"""The two sets of images of a study: one to pre-train on, one to fine-tune on, each perhaps some classes."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qrt_tn.engine.arguments import Seed
from qrt_tn.models.array_files import read_npz
from qrt_tn.models.images import Images, fold, load_images

_MOST_DIGITS = 5  # of a class: beyond any set of images, and few enough classes to be listed
_CLASSES = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")


@dataclass(frozen=True, eq=False)
class Points:
    """What one network learns from and is measured on: standardised pixels and labels from 0 on.

    Attributes:
        x: training images in random order, float32, shape (M, H, W, C).
        y: their labels, int32, shape (M,).
        x_test: images that training never sees.
        y_test: their labels.
    """

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def parse_spec(text: str) -> tuple[str, tuple[int, ...] | None]:
    """The source and the classes of a text such as "digits:0-4", "mnist:1,3,7-9" or "mnist" (all: None).

    Raises:
        ValueError: no source, a range that falls, a class named twice, or only one class.
    """
    source, sign, tail = text.rpartition(":")
    if not sign or not _CLASSES.fullmatch(tail):
        if not text or text.endswith(":"):
            raise ValueError(f"data {text!r} is not of the form name:classes, such as digits:0-4")
        return text, None
    if not source:
        raise ValueError(f"data {text!r} names no set; give one before the colon, such as digits{text}")
    classes: list[int] = []
    for part in tail.split(","):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise ValueError(f"the classes {part!r} of {text!r} fall; give the lower one first")
        if len(last or first) > _MOST_DIGITS:
            raise ValueError(
                f"data {text[:60]!r} names a class of {len(last or first)} digits; no set has it"
            )
        classes += range(int(first), int(last or first) + 1)
    if len(set(classes)) != len(classes):
        raise ValueError(f"data {text!r} names a class twice; name each once")
    if len(classes) < 2:
        raise ValueError(f"data {text!r} has only one class; name two or more to tell apart")
    return source, tuple(classes)


def load_set(text: str) -> Images:
    """The images of a set's name or path, of some classes only where the text names them.

    Labels are counted anew from 0 in the order in which the classes are named.

    Raises:
        ValueError: a text of another form, a set that cannot be had, or a class that it does not have.
    """
    source, classes = parse_spec(text)
    images = load_images(source)
    if classes is None:
        return images
    strangers = [label for label in classes if label >= images.outputs]
    if strangers:
        raise ValueError(
            f"{source} has no class {strangers[0]}; its classes are 0 .. {images.outputs - 1}:"
            f" {', '.join(images.classes)}"
        )
    new = np.full(images.outputs, -1)
    new[list(classes)] = range(len(classes))
    kept, kept_test = new[images.y] >= 0, new[images.y_test] >= 0
    if not kept.any() or not kept_test.any():
        raise ValueError(f"{text} has no image to train on or none for the test; name other classes")
    tail = text.rpartition(":")[2]
    return replace(
        images,
        x=images.x[kept],
        y=new[images.y[kept]],
        x_test=images.x_test[kept_test],
        y_test=new[images.y_test[kept_test]],
        name=f"{images.name}:{tail}",
        classes=tuple(images.classes[label] for label in classes),
    )


def draw_points(images: Images, seed: Seed, points: int | None, test_points: int) -> Points:
    """Training points at random, and as many test points as can be had.

    Training images that are not trained on join the set's own test images, which come first: on the digits
    these alone would be too few to tell two networks apart. No setting of a network is chosen on them.

    Args:
        images: the set.
        seed: which images are trained on.
        points: how many; None for all but one.
        test_points: the most test images.

    Raises:
        ValueError: a number of points that cannot be.
    """
    if points is not None and not 1 <= points < len(images):
        raise ValueError(
            f"{points} training points of {images.name}, which has {len(images)}; give 1 to {len(images) - 1}"
        )
    aside = 1 if points is None else len(images) - points
    held = fold(images, seed, validation=aside)
    return Points(
        held.x_train,
        held.y_train,
        np.concatenate([held.x_test, held.x_validation])[:test_points],
        np.concatenate([held.y_test, held.y_validation])[:test_points],
    )


def calibration_images(text: str, images: int, seed: int) -> tuple[np.ndarray, str]:
    """Images to look at, float32, shape (N, height, width, channels), and what they are called.

    Args:
        text: an npz file with an array "x" of floats, which are taken as they are, in their order; or a set
            as `load_set` takes it, whose training images are standardised and drawn at random.
        images: the most there are to be.
        seed: of the draw.

    Raises:
        ValueError: a file that cannot be read, without x, or of another kind of numbers.
    """
    path = Path(text)
    if path.suffix == ".npz" and path.is_file():
        x = read_npz(path, lambda names: {"x"} & {*names}).get("x")
        if x is not None:
            if x.dtype.kind != "f" or x.ndim != 4 or not len(x):
                raise ValueError(
                    f"x of {path} is {x.dtype} of shape {x.shape}; give floats (images, height, width,"
                    " channels), prepared as the network was trained"
                )
            return x[:images].astype(np.float32), path.name
    held_set = load_set(text)
    return fold(held_set, seed, validation=1).x_train[:images], held_set.name
