"""Read labelled images from local files: IDX, CIFAR's binary version, npz, or folders of images."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qrt_tn.models.array_files import read_idx, read_npz
from qrt_tn.models.image_folders import read_folders

_CHANNELS = (1, 3, 4)


class Labelled(NamedTuple):
    """Images and their labels, as a set of files holds them.

    Attributes:
        parts: (x, y) for training and, where the files have a test set, for the test: pixels, shape
            (M, H, W, C), uint8, and labels, shape (M,).
        classes: the names of the classes; their numbers where nothing names them.
        notes: what of the reading is worth telling.
    """

    parts: list[tuple[np.ndarray, np.ndarray]]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


class _Cifar(NamedTuple):
    """A binary version of CIFAR (A. Krizhevsky, "The CIFAR-10 dataset")."""

    train: tuple[str, ...]
    test: str
    labels: int  # bytes of labels before each image; the last of them is used
    classes: int
    names: str
    pickled: tuple[str, ...]  # files that tell the Python version


_CIFARS = (
    _Cifar(
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test_batch.bin",
        1,
        10,
        "batches.meta.txt",
        ("data_batch_1", "test_batch"),
    ),
    _Cifar(("train.bin",), "test.bin", 2, 100, "fine_label_names.txt", ("train", "test")),
)


def read_images(source: str | Path, classes: tuple[str, ...] | None = None) -> Labelled:
    """Read labelled images from local files; what they are is told from their names.

    Nothing is ever unpickled. The formats:

    - *IDX*, as MNIST has it: train-images-idx3-ubyte, train-labels-idx1-ubyte, and t10k- likewise, each
      with or without .gz, or spelt train-images.idx3-ubyte;
    - *CIFAR's binary version*: data_batch_1.bin .. data_batch_5.bin and test_batch.bin, or CIFAR-100's
      train.bin and test.bin, whose fine labels are used;
    - *npz*: x_train, y_train, x_test, y_test, or x and y without a test set; x has shape (M, H, W),
      (M, H, W, C) or (M, C, H, W) and whole numbers 0 .. 255, y has shape (M,) or (M, 1);
    - *folders of images*, as `image_folders.read_folders` has them.

    IDX and CIFAR files may also lie in a subfolder of `source`, or in its folder raw (torchvision's
    MNIST/raw).

    Args:
        source: an npz file or a folder.
        classes: the names of the classes, where they are known; names in the files come first.

    Raises:
        ValueError: no such file or folder, another format, a pickled one, missing or torn files, or images
            of several sizes.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() == ".npz":
        return _read_npz(path, classes)
    if not path.is_dir():
        problem = "is not a kind of file that can be read" if path.exists() else "does not exist"
        raise ValueError(
            f"{path} {problem}; give an npz file; or a folder (unpack an archive first) with MNIST's four IDX"
            " files, with CIFAR's binary version, with one npz file, or with images in train/<class>/ and"
            " test/<class>/, or in <class>/"
        )
    inner = sorted(folder for folder in path.iterdir() if folder.is_dir())
    for level in ([path], inner, [folder / "raw" for folder in inner]):
        found = [(folder, reader) for folder in level for reader in _readers(folder)]
        if len(found) > 1:
            names = ", ".join(str(folder) for folder, _ in found)
            raise ValueError(f"{path} holds several data sets ({names}); give the path of a folder with one")
        for folder, reader in found:
            return reader(folder, classes)
    for folder in (path, *inner):
        if any(all((folder / name).is_file() for name in cifar.pickled) for cifar in _CIFARS):
            raise ValueError(
                f"{folder} holds CIFAR's Python version, which is pickled and could run any code when read;"
                " fetch the binary version (data_batch_1.bin and so on, or train.bin and test.bin)"
            )
    archives = sorted(path.glob("*.npz"))
    if len(archives) == 1:
        return _read_npz(archives[0], classes)
    return Labelled(*read_folders(path))


def _readers(folder: Path) -> list[Callable[[Path, tuple[str, ...] | None], Labelled]]:
    """The readers of the formats whose files lie in the folder."""
    kinds = [kind for kind in _CIFARS if any((folder / name).is_file() for name in (*kind.train, kind.test))]
    parts = [(part, kind) for part in ("train", "t10k") for kind in ("images", "labels")]
    idx = [_read_idx_set] * any(_idx_file(folder, *part) for part in parts)
    return [*idx, *(partial(_read_cifar, kind) for kind in kinds)]


def _idx_file(folder: Path, part: str, kind: str) -> Path | None:
    """The images' or labels' file of a part under any of its spellings."""
    axes = 3 if kind == "images" else 1
    files = [folder / f"{part}-{kind}{dot}idx{axes}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    return next(filter(Path.is_file, files), None)


def _read_idx_set(folder: Path, classes: tuple[str, ...] | None) -> Labelled:
    parts = []
    for part in ("train", "t10k"):
        found = []
        for kind, axes in (("images", 3), ("labels", 1)):
            file = _idx_file(folder, part, kind)
            if file is None:
                raise ValueError(f"{folder} lacks {part}-{kind}-idx{axes}-ubyte (or .gz); put it there")
            found.append(read_idx(file))
            if found[-1].ndim != axes:
                raise ValueError(f"{file} has {found[-1].ndim} axes, not {axes}; it is not a file of {kind}")
        parts.append((found[0][..., None], found[1]))
    return Labelled(parts, classes or _numbers(str(folder), parts[0][1]))


def _read_cifar(kind: _Cifar, folder: Path, known: tuple[str, ...] | None) -> Labelled:
    """Read rows of the bytes of labels, then planes R, G, B of 32 x 32 pixels."""
    parts = []
    for names in (kind.train, (kind.test,)):
        rows = []
        for file in (folder / name for name in names):
            if not file.is_file():
                raise ValueError(f"{folder} lacks {file.name}; put all files of CIFAR's binary version there")
            values, width = np.frombuffer(file.read_bytes(), dtype=np.uint8), kind.labels + 3 * 32 * 32
            if values.size == 0 or values.size % width:
                raise ValueError(
                    f"{file} holds {values.size} bytes, not whole rows of {width}; fetch it again"
                )
            rows.append(values.reshape(-1, width))
        both = np.concatenate(rows)
        x = both[:, kind.labels :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        parts.append((np.ascontiguousarray(x), both[:, kind.labels - 1]))
    classes = known if known and len(known) == kind.classes else tuple(map(str, range(kind.classes)))
    listed = folder / kind.names
    if listed.is_file():
        classes = tuple(filter(None, map(str.strip, listed.read_text("utf-8", "replace").splitlines())))
        if len(classes) != kind.classes:
            raise ValueError(
                f"{listed} names {len(classes)} classes, not {kind.classes}; correct or remove it"
            )
    return Labelled(parts, classes)


def _read_npz(source: Path, classes: tuple[str, ...] | None) -> Labelled:
    def choose(known: list[str]) -> list[str]:
        return ["x_train", "y_train", "x_test", "y_test"] if "x_train" in known else ["x", "y"]

    arrays = read_npz(source, choose)
    wanted = list(arrays)
    parts, notes = [], []
    for x_name, y_name in zip(wanted[::2], wanted[1::2], strict=True):
        x, y = arrays[x_name], arrays[y_name]
        if x.dtype.kind not in "iu" or (x.size and not 0 <= x.min() <= x.max() <= 255):
            what = x.dtype if x.dtype.kind not in "iu" else f"values from {x.min()} to {x.max()}"
            raise ValueError(f"{source}: {x_name} holds {what}; give whole pixel values 0..255 as uint8")
        if x.ndim == 3:
            x = x[..., None]
        last = x.ndim != 4 or x.shape[1] not in _CHANNELS or x.shape[3] in _CHANNELS
        if not last and x.shape[1] < min(x.shape[2:]):
            notes.append(f"{x_name} had its channels first, {x.shape}")
            x = x.transpose(0, 2, 3, 1)
        parts.append((np.ascontiguousarray(x, np.uint8), y[:, 0] if y.shape[1:] == (1,) else y))
    return Labelled(parts, classes or _numbers(f"{source}: {wanted[1]}", parts[0][1]), tuple(notes))


def _numbers(name: str, y: np.ndarray) -> tuple[str, ...]:
    """Names for classes that have none: 0, 1, ... without a gap among the labels for training."""
    present = np.unique(y)
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if len(gaps):
        raise ValueError(
            f"{name} holds label {present.tolist()[gaps[0]]!r} where {gaps[0]} is expected;"
            " number the classes 0, 1, ..."
        )
    return tuple(map(str, present))
