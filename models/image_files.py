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
        classes: their names, or numbers where nothing names them.
        notes: what of the reading is worth telling.
    """

    parts: list[tuple[np.ndarray, np.ndarray]]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


_Reader = Callable[[Path, tuple[str, ...] | None], Labelled]


class _Cifar(NamedTuple):
    """A binary version of CIFAR (A. Krizhevsky, "The CIFAR-10 dataset")."""

    train: tuple[str, ...]
    test: str
    labels: int  # bytes of labels before each image; the last of them is used
    classes: int
    names: str


_CIFAR10 = _Cifar(
    tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", 1, 10, "batches.meta.txt"
)
_CIFAR100 = _Cifar(("train.bin",), "test.bin", 2, 100, "fine_label_names.txt")


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

    IDX and CIFAR files may also lie in a subfolder, or in its folder raw (torchvision's MNIST/raw).

    Args:
        source: an npz file or a folder.
        classes: their names, where they are known; names in the files come first.

    Raises:
        ValueError: no such source, another format, missing or torn files, or images of several sizes.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() == ".npz":
        return _read_npz(path, classes)
    if not path.is_dir():
        problem = "is not a kind of file that can be read" if path.exists() else "does not exist"
        raise ValueError(
            f"{path} {problem}; give an npz file, or a folder (unpack an archive first) of IDX files, of"
            " CIFAR's binary version, or of images in train/<class>/ and test/<class>/, or in <class>/"
        )
    inner = sorted(folder for folder in path.iterdir() if folder.is_dir())
    for level in ([path], inner, [folder / "raw" for folder in inner]):
        found = [(folder, reader) for folder in level for reader in _readers(folder)]
        if len(found) > 1:
            names = ", ".join(str(folder) for folder, _ in found)
            raise ValueError(f"{path} holds several data sets ({names}); give the path of a folder with one")
        for folder, reader in found:
            return reader(folder, classes)
    if any((folder / name).is_file() for folder in (path, *inner) for name in ("data_batch_1", "train")):
        raise ValueError(
            f"{path} holds CIFAR's Python version, which is pickled and could run any code; fetch its binary"
            " version"
        )
    archives = list(filter(Path.is_file, path.glob("*.npz")))
    if len(archives) == 1:
        return _read_npz(archives[0], classes)
    return Labelled(*read_folders(path))


def _readers(folder: Path) -> list[_Reader]:
    """The readers of the formats whose files lie in the folder."""
    readers: list[_Reader] = [_read_idx_set] if any(folder.glob("t*-*[-.]idx?-ubyte*")) else []
    for kind in (_CIFAR10, _CIFAR100):
        if any((folder / name).is_file() for name in (*kind.train, kind.test)):
            readers.append(partial(_read_cifar, kind))
    return readers


def _read_idx_set(folder: Path, classes: tuple[str, ...] | None) -> Labelled:
    arrays = []
    for part in ("train", "t10k"):
        for kind, axes in (("images", 3), ("labels", 1)):
            name = f"{part}-{kind}[-.]idx{axes}-ubyte"
            files = [*folder.glob(name), *folder.glob(f"{name}.gz")]
            if not files:
                raise ValueError(f"{folder} lacks {part}-{kind}-idx{axes}-ubyte (or .gz); put it there")
            arrays.append(read_idx(files[0]))
            if arrays[-1].ndim != axes:
                raise ValueError(f"{files[0]} has {arrays[-1].ndim} axes, not the {axes} of {kind}")
    parts = [(arrays[0][..., None], arrays[1]), (arrays[2][..., None], arrays[3])]
    return Labelled(parts, classes or _numbers(str(folder), arrays[1]))


def _read_cifar(kind: _Cifar, folder: Path, known: tuple[str, ...] | None) -> Labelled:
    """Read rows of the bytes of labels, then planes R, G, B of 32 x 32 pixels."""
    parts, width = [], kind.labels + 3 * 32 * 32
    for names in (kind.train, (kind.test,)):
        rows = []
        for file in (folder / name for name in names):
            values = np.fromfile(file, dtype=np.uint8) if file.is_file() else np.empty(0, np.uint8)
            if values.size == 0 or values.size % width:
                raise ValueError(f"{file} is missing, or no whole rows of {width} bytes; fetch it again")
            rows.append(values.reshape(-1, width))
        both = np.concatenate(rows)
        x = both[:, kind.labels :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        parts.append((np.ascontiguousarray(x), both[:, kind.labels - 1]))
    listed = folder / kind.names
    named = listed.read_text("utf-8", "replace").splitlines() if listed.is_file() else ()
    for classes in (tuple(filter(None, map(str.strip, named))), known or ()):
        if len(classes) == kind.classes:
            return Labelled(parts, classes)
    return Labelled(parts, tuple(map(str, range(kind.classes))))


def _read_npz(source: Path, classes: tuple[str, ...] | None) -> Labelled:
    def choose(known: list[str]) -> list[str]:
        return ["x_train", "y_train", "x_test", "y_test"] if "x_train" in known else ["x", "y"]

    arrays = read_npz(source, choose)
    names, parts, notes = list(arrays), [], []
    for x_name, y_name in zip(names[::2], names[1::2], strict=True):
        x, y = arrays[x_name], arrays[y_name]
        if x.dtype.kind not in "iu" or (x.size and not 0 <= x.min() <= x.max() <= 255):
            what = x.dtype if x.dtype.kind not in "iu" else f"values from {x.min()} to {x.max()}"
            raise ValueError(f"{source}: {x_name} holds {what}; give whole pixel values 0..255 as uint8")
        if x.ndim == 3:
            x = x[..., None]
        if x.ndim == 4 and x.shape[3] not in _CHANNELS and x.shape[1] < min(x.shape[2:]):
            if x.shape[1] not in _CHANNELS:
                raise ValueError(
                    f"{source}: {x_name} of shape {x.shape} may have {x.shape[1]} channels first or"
                    f" {x.shape[3]} last; give them last, in images no wider than high"
                )
            notes.append(f"{x_name} had its channels first, {x.shape}")
            x = x.transpose(0, 2, 3, 1)
        parts.append((np.ascontiguousarray(x, np.uint8), y[:, 0] if y.shape[1:] == (1,) else y))
    return Labelled(parts, classes or _numbers(f"{source}: {names[1]}", parts[0][1]), tuple(notes))


def _numbers(name: str, y: np.ndarray) -> tuple[str, ...]:
    """Names for classes that have none: 0, 1, ... without a gap among the labels for training."""
    present = np.unique(y)
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if len(gaps):
        found = present.tolist()[gaps[0]]
        raise ValueError(f"{name} holds label {found!r} where {gaps[0]} is expected; number them 0, 1, ...")
    return tuple(map(str, present))
