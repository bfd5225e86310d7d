"""Read labelled images from local files: IDX, CIFAR's binary version, npz, or folders of images."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qrt_tn.models.array_files import read_idx, read_npz
from qrt_tn.models.image_folders import read_folders

ACCEPTED = (
    "an npz file; or a folder with MNIST's four IDX files, with CIFAR's binary version, with one npz file, or"
    " with images in train/<class>/ and test/<class>/, or in <class>/"
)

_KINDS = (("images", 3), ("labels", 1))  # an IDX file's contents, and how many axes they have
_CHANNELS = (1, 3, 4)


class Labelled(NamedTuple):
    """Images and their labels, as a set of files holds them.

    Attributes:
        x: pixels, shape (M, H, W, C), uint8.
        y: labels 0 .. classes-1, shape (M,), int64.
        x_test: shape (M', H, W, C), or None where the files have no test set.
        y_test: shape (M',), or None.
        classes: the names of the classes; their numbers where nothing names them.
        notes: what of the reading is worth telling.
    """

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray | None
    y_test: np.ndarray | None
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


class _Cifar(NamedTuple):
    """A binary version of CIFAR (A. Krizhevsky, "The CIFAR-10 dataset")."""

    train: tuple[str, ...]
    test: str
    counts: tuple[int, ...]  # of classes, for each byte of labels: coarse before fine
    names: str
    pickled: tuple[str, ...]  # files that tell the Python version


_CIFARS = (
    _Cifar(
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test_batch.bin",
        (10,),
        "batches.meta.txt",
        ("data_batch_1", "test_batch"),
    ),
    _Cifar(("train.bin",), "test.bin", (20, 100), "fine_label_names.txt", ("train", "test")),
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
    - *folders of images* in any format that Pillow reads, as `image_folders.read_folders` has it. Black and
      white is read as grey; a palette, alpha or any other 8-bit colours as RGB without the alpha; grey
      images become RGB where others in the set are coloured.

    IDX and CIFAR files may also lie in a subfolder of `source`, or in its folder raw (torchvision's
    MNIST/raw).

    Args:
        source: an npz file or a folder.
        classes: the names of the classes, where they are known; names in the files come first.

    Raises:
        ValueError: no such file or folder, another format, a pickled one, missing or torn files, images of
            several sizes, or labels outside 0 .. classes-1.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() == ".npz":
        return _read_npz(path, classes)
    if not path.is_dir():
        problem = "is not a kind of file that can be read" if path.exists() else "does not exist"
        raise ValueError(f"{path} {problem}; give {ACCEPTED} (unpack an archive first)")
    inner = sorted(folder for folder in path.iterdir() if folder.is_dir())
    raw = [folder / "raw" for folder in inner if (folder / "raw").is_dir()]
    for level in ([path], inner, raw):
        found = [(folder, reader) for folder in level for reader in _readers(folder)]
        if len(found) > 1:
            names = ", ".join(str(folder) for folder, _ in found)
            raise ValueError(f"{path} holds several data sets ({names}); give the path of a folder with one")
        if found:
            folder, reader = found[0]
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
    return _labelled(*read_folders(path))


def _labelled(
    parts: list[tuple[np.ndarray, np.ndarray]], classes: tuple[str, ...], notes: Iterable[str] = ()
) -> Labelled:
    """A set of (x, y) for training and, perhaps, for the test."""
    x_test, y_test = parts[1] if len(parts) > 1 else (None, None)
    return Labelled(*parts[0], x_test, y_test, classes, tuple(notes))


Reader = Callable[[Path, tuple[str, ...] | None], Labelled]


def _readers(folder: Path) -> list[Reader]:
    """The readers of the formats whose files lie in the folder."""
    idx = any(_idx_file(folder, part, *kind) for part in ("train", "t10k") for kind in _KINDS)
    cifars = [
        cifar for cifar in _CIFARS if any((folder / name).is_file() for name in (*cifar.train, cifar.test))
    ]
    found: list[Reader] = [_read_idx_set] * idx
    return found + [lambda where, known, kind=cifar: _read_cifar(where, kind, known) for cifar in cifars]


def _idx_file(folder: Path, part: str, kind: str, axes: int) -> Path | None:
    """The images' or labels' file of a part under any of its spellings."""
    for spelling in (f"{part}-{kind}-idx{axes}-ubyte", f"{part}-{kind}.idx{axes}-ubyte"):
        for suffix in ("", ".gz"):
            if (folder / (spelling + suffix)).is_file():
                return folder / (spelling + suffix)
    return None


def _read_idx_set(folder: Path, classes: tuple[str, ...] | None) -> Labelled:
    images: list[np.ndarray] = []
    labels: list[tuple[str, np.ndarray]] = []
    for part in ("train", "t10k"):
        for kind, axes in _KINDS:
            file = _idx_file(folder, part, kind, axes)
            if file is None:
                raise ValueError(f"{folder} lacks {part}-{kind}-idx{axes}-ubyte (or .gz); put it there")
            array = read_idx(file)
            if array.ndim != axes:
                raise ValueError(f"{file} has {array.ndim} axes, not {axes}; it is not a file of {kind}")
            if kind == "images":
                images.append(array[:, :, :, None])
            else:
                labels.append((str(file), array))
        if len(images[-1]) != len(array):
            raise ValueError(
                f"{file} holds {len(array)} labels for {len(images[-1])} images; fetch both again"
            )
    found, names = _label(labels, classes)
    return _labelled(list(zip(images, found, strict=True)), names)


def _read_cifar(folder: Path, kind: _Cifar, known: tuple[str, ...] | None) -> Labelled:
    """Read rows of one byte a label, then planes R, G, B of 32 x 32 pixels."""
    labels, classes = len(kind.counts), kind.counts[-1]
    width = labels + 3 * 32 * 32
    arrays = []
    for name in (*kind.train, kind.test):
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{folder} lacks {name}; put all files of CIFAR's binary version there")
        values = np.frombuffer(file.read_bytes(), dtype=np.uint8)
        if values.size == 0 or values.size % width:
            raise ValueError(f"{file} holds {values.size} bytes, not whole rows of {width}; fetch it again")
        rows = values.reshape(-1, width)
        for column, count in enumerate(kind.counts):
            if rows[:, column].max() >= count:
                raise ValueError(
                    f"{file} holds label {rows[:, column].max()}, outside 0..{count - 1}; fetch it again"
                )
        arrays.append(rows)
    names = known if known is not None and len(known) == classes else _numbers(classes)
    listed = folder / kind.names
    if listed.is_file():
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
        names = tuple(line.strip() for line in lines if line.strip())
        if len(names) != classes:
            raise ValueError(f"{listed} names {len(names)} classes, not {classes}; correct or remove it")
    parts = []
    for rows in (np.concatenate(arrays[:-1]), arrays[-1]):
        x = rows[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        parts.append((np.ascontiguousarray(x), rows[:, labels - 1].astype(np.int64)))
    return _labelled(parts, names)


def _read_npz(source: Path, classes: tuple[str, ...] | None) -> Labelled:
    def choose(known: list[str]) -> list[str]:
        return ["x_train", "y_train", "x_test", "y_test"] if "x_train" in known else ["x", "y"]

    arrays, known = read_npz(source, choose)
    wanted = choose(known)
    images, labels, notes = [], [], []
    for x_name, y_name in zip(wanted[::2], wanted[1::2], strict=True):
        for name in (x_name, y_name):
            if name not in arrays:
                raise ValueError(
                    f"{source} has no array {name!r}, only {', '.join(known) or 'none'}; give x_train,"
                    " y_train, x_test and y_test, or x and y"
                )
        x, note = _npz_images(f"{source}: {x_name}", arrays[x_name])
        y = arrays[y_name]
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim != 1 or y.dtype.kind not in "iu":
            raise ValueError(
                f"{source}: {y_name} has shape {y.shape}, {y.dtype}; give integer labels of shape (images,)"
            )
        if len(x) != len(y):
            raise ValueError(f"{source}: {x_name} has {len(x)} images but {len(y)} labels; give one an image")
        images.append(x)
        labels.append((f"{source}: {y_name}", y))
        notes += [f"{x_name} {note}"] * bool(note)
    found, names = _label(labels, classes)
    return _labelled(list(zip(images, found, strict=True)), names, notes)


def _npz_images(name: str, x: np.ndarray) -> tuple[np.ndarray, str]:
    """Pixels, shape (M, H, W, C), uint8; and what was done to get them there."""
    if x.ndim not in (3, 4) or x.size == 0:
        raise ValueError(f"{name} has shape {x.shape}; give (images, H, W) or (images, H, W, C), not empty")
    if x.dtype.kind not in "iu" or x.min() < 0 or x.max() > 255:
        what = x.dtype if x.dtype.kind not in "iu" else f"values from {x.min()} to {x.max()}"
        raise ValueError(f"{name} holds {what}; give whole pixel values 0..255 as uint8")
    x = x.astype(np.uint8, copy=False)
    if (
        x.ndim == 4
        and x.shape[1] in _CHANNELS
        and x.shape[3] not in _CHANNELS
        and x.shape[1] < min(x.shape[2:])
    ):
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1)), f"had its channels first, {x.shape}"
    return x.reshape(*x.shape[:3], -1), ""


def _label(
    parts: list[tuple[str, np.ndarray]], classes: tuple[str, ...] | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Labels as int64, and the names of the classes.

    Where the classes are not known they are 0 .. the greatest label, each of which must then occur in the
    training set, the first part.
    """
    for name, y in parts:
        if y.size == 0 or y.min() < 0:
            raise ValueError(f"{name} holds {'no labels' if y.size == 0 else y.min()}; give labels 0, 1, ...")
        if classes is not None and y.max() >= len(classes):
            raise ValueError(
                f"{name} holds label {y.max()}, outside 0..{len(classes) - 1}; correct it or fetch it again"
            )
    if classes is None:
        name, first = parts[0]
        present = np.unique(first)
        for part, y in parts:
            if not np.isin(y, present).all():
                raise ValueError(
                    f"{part} holds label {np.setdiff1d(y, present)[0]}, which {name} has not;"
                    " train on every class"
                )
        if len(present) != int(present[-1]) + 1:
            gap = int(np.flatnonzero(present != np.arange(len(present)))[0])
            raise ValueError(f"{name} has no label {gap} but {present[-1]}; number the classes 0, 1, ...")
        classes = _numbers(len(present))
    return [y.astype(np.int64) for _, y in parts], classes


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(label) for label in range(count))
