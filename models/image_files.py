"""Labelled images in local files: IDX, CIFAR's binary version, npz, or folders of PNG and JPEG images."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qrt_tn.engine.progress import shown
from qrt_tn.models.idx import read_idx
from qrt_tn.models.npz import read_npz

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg")
EIGHT_BITS = 8  # of a PNG, whose 25th byte tells them
ACCEPTED = (
    "an npz file; or a folder with MNIST's four IDX files, with CIFAR's binary version, with one npz file, or"
    " with images in train/<class>/ and test/<class>/, or in <class>/"
)

_KINDS = (("images", 3), ("labels", 1))  # an IDX file's contents, and how many axes they have
# The files of the training and of the test part of CIFAR's binary version.
_CIFAR10 = ([f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"])
_CIFAR100 = (["train.bin"], ["test.bin"])
_SIDE = 32  # a CIFAR image has this many rows and columns


class Labelled(NamedTuple):
    """Images and their labels, as a set of files holds them.

    Attributes:
        x: pixels, shape (M, H, W, C), uint8.
        y: labels 0 .. classes-1, shape (M,), int64.
        x_test: shape (M', H, W, C), or None where the files have no test set.
        y_test: shape (M',), or None.
        classes: the names of the classes; their numbers where nothing names them.
    """

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray | None
    y_test: np.ndarray | None
    classes: tuple[str, ...]


def read_images(source: str | Path, classes: tuple[str, ...] | None = None) -> Labelled:
    """Read labelled images from local files; what they are is told from their names.

    Nothing is ever unpickled. The formats:

    - *IDX*, as MNIST has it: train-images-idx3-ubyte, train-labels-idx1-ubyte, and t10k- likewise, each
      with or without .gz, or spelt train-images.idx3-ubyte;
    - *CIFAR's binary version* (A. Krizhevsky, "The CIFAR-10 dataset"): data_batch_1.bin .. data_batch_5.bin
      and test_batch.bin, or CIFAR-100's train.bin and test.bin, whose fine labels are used;
    - *npz*: x_train, y_train, x_test, y_test, or x and y without a test set; x has shape (M, H, W) or
      (M, H, W, C) and whole numbers 0 .. 255, y has shape (M,) or (M, 1);
    - *folders of images*: train/<class>/ and test/<class>/, or <class>/ without a test set, in the order
      of the names. Black and white is read as grey; a palette, alpha or any other 8-bit colours as RGB
      without the alpha; grey images become RGB where others in the set are coloured.

    IDX and CIFAR files may also lie in a subfolder of `source`.

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
    # a folder's own files first, then those one floor below
    for level in ([path], inner):
        found = [(folder, reader) for folder in level for reader in _readers(folder)]
        if len(found) > 1:
            names = ", ".join(str(folder) for folder, _ in found)
            raise ValueError(f"{path} holds several data sets ({names}); give the path of a folder with one")
        if found:
            folder, reader = found[0]
            return reader(folder, classes)
    for folder in (path, *inner):
        _refuse_pickles(folder)
    archives = sorted(path.glob("*.npz"))
    if len(archives) == 1:
        return _read_npz(archives[0], classes)
    return _read_image_folders(path)


Reader = Callable[[Path, tuple[str, ...] | None], Labelled]


def stack_images(opened: "Iterable[tuple[str, Image]]", total: int) -> np.ndarray:
    """The pixels of Pillow images of one size.

    Args:
        opened: a name for errors, and the image, of each.
        total: how many there are, for the progress bar.

    Returns:
        Shape (images, H, W, 1) if all are grey, else (images, H, W, 3); uint8.

    Raises:
        ValueError: images of several sizes, or of more than 8 bits a channel.
    """
    stack: list[np.ndarray] = []
    with shown(None, total, "images") as progress:
        for name, image in opened:
            values = _pixels(image, name)
            if stack and values.shape[:2] != stack[0].shape[:2]:
                raise ValueError(
                    f"{name} has {values.shape[0]} x {values.shape[1]} pixels, the images before it"
                    f" {stack[0].shape[0]} x {stack[0].shape[1]} (height x width); bring all to one size"
                )
            stack.append(values)
            progress(len(stack), total)
    channels = max(values.shape[2] for values in stack)
    return np.stack([np.broadcast_to(values, (*values.shape[:2], channels)) for values in stack])


def _pixels(image: "Image", name: str) -> np.ndarray:
    if image.mode[0] in "IF":
        raise ValueError(f"{name} has mode {image.mode!r}, more than 8 bits a channel; convert it to 8 bits")
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[:, :, None]
    # Pillow warns of some palettes with transparency unless they pass through RGBA
    plain = image.convert("RGBA") if image.mode in ("P", "PA") else image
    return np.asarray(plain.convert("RGB"))


# --- IDX ---


def _idx_file(folder: Path, part: str, kind: str, axes: int) -> Path | None:
    """The images' or labels' file of a part under any of its spellings."""
    for spelling in (f"{part}-{kind}-idx{axes}-ubyte", f"{part}-{kind}.idx{axes}-ubyte"):
        for suffix in ("", ".gz"):
            if (folder / (spelling + suffix)).is_file():
                return folder / (spelling + suffix)
    return None


def _is_idx(folder: Path) -> bool:
    return any(_idx_file(folder, part, *kind) for part in ("train", "t10k") for kind in _KINDS)


def _read_idx(folder: Path, classes: tuple[str, ...] | None) -> Labelled:
    arrays: list[np.ndarray] = []
    labels: list[tuple[str, np.ndarray]] = []
    for part in ("train", "t10k"):
        files = []
        for kind, axes in _KINDS:
            file = _idx_file(folder, part, kind, axes)
            if file is None:
                raise ValueError(f"{folder} lacks {part}-{kind}-idx{axes}-ubyte (or .gz); put it there")
            array = read_idx(file)
            if array.ndim != axes:
                raise ValueError(f"{file} has {array.ndim} axes, not {axes}; it is not a file of {kind}")
            files.append((str(file), array))
        (_, x), (name, y) = files
        if len(x) != len(y):
            raise ValueError(f"{name} holds {len(y)} labels for {len(x)} images; fetch both files again")
        arrays.append(x[:, :, :, None])
        labels.append((name, y))
    (y, y_test), names = _label(labels, classes)
    return Labelled(arrays[0], y, arrays[1], y_test, names)


# --- CIFAR's binary version ---


def _is_cifar10(folder: Path) -> bool:
    return any((folder / name).is_file() for part in _CIFAR10 for name in part)


def _is_cifar100(folder: Path) -> bool:
    return any((folder / name).is_file() for part in _CIFAR100 for name in part)


def _read_cifar10(folder: Path, classes: tuple[str, ...] | None) -> Labelled:
    return _read_cifar(folder, _CIFAR10, (10,), folder / "batches.meta.txt", classes)


def _read_cifar100(folder: Path, classes: tuple[str, ...] | None) -> Labelled:
    return _read_cifar(folder, _CIFAR100, (20, 100), folder / "fine_label_names.txt", classes)


def _read_cifar(
    folder: Path,
    parts: tuple[list[str], list[str]],
    counts: tuple[int, ...],
    names: Path,
    known: tuple[str, ...] | None,
) -> Labelled:
    """Read rows of one byte a label (coarse before fine), then planes R, G, B of 32 x 32 pixels."""
    labels, pixels = len(counts), 3 * _SIDE * _SIDE
    arrays = []
    for part in parts:
        for name in part:
            file = folder / name
            if not file.is_file():
                raise ValueError(f"{folder} lacks {name}; put all files of CIFAR's binary version there")
            values = np.frombuffer(file.read_bytes(), dtype=np.uint8)
            if values.size == 0 or values.size % (labels + pixels):
                raise ValueError(
                    f"{file} holds {values.size} bytes, not whole rows of {labels + pixels}; fetch it again"
                )
            rows = values.reshape(-1, labels + pixels)
            for column, count in enumerate(counts):
                if rows[:, column].max() >= count:
                    raise ValueError(
                        f"{file} holds label {rows[:, column].max()}, outside 0..{count - 1}; fetch it again"
                    )
            arrays.append(rows)
    train, test = np.concatenate(arrays[: len(parts[0])]), np.concatenate(arrays[len(parts[0]) :])
    classes = known if known is not None and len(known) == counts[-1] else _numbers(counts[-1])
    if names.is_file():
        lines = names.read_text(encoding="utf-8", errors="replace").splitlines()
        classes = tuple(line.strip() for line in lines if line.strip())
        if len(classes) != counts[-1]:
            raise ValueError(f"{names} names {len(classes)} classes, not {counts[-1]}; mend or remove it")
    x, x_test = (
        np.ascontiguousarray(rows[:, labels:].reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))
        for rows in (train, test)
    )
    y, y_test = (rows[:, labels - 1].astype(np.int64) for rows in (train, test))
    return Labelled(x, y, x_test, y_test, classes)


def _refuse_pickles(folder: Path) -> None:
    version10 = any((folder / name).is_file() for name in ("data_batch_1", "test_batch"))
    version100 = all((folder / name).is_file() for name in ("train", "test"))
    if version10 or version100:
        raise ValueError(
            f"{folder} holds CIFAR's Python version, which is pickled and could run any code when read; fetch"
            " the binary version (data_batch_1.bin .. and test_batch.bin, or train.bin and test.bin)"
        )


def _readers(folder: Path) -> list[Reader]:
    """The readers of the formats whose files lie in the folder."""
    kinds = ((_is_idx, _read_idx), (_is_cifar10, _read_cifar10), (_is_cifar100, _read_cifar100))
    return [reader for recognised, reader in kinds if recognised(folder)]


# --- npz ---


def _read_npz(source: Path, classes: tuple[str, ...] | None) -> Labelled:
    def choose(known: list[str]) -> list[str]:
        return ["x_train", "y_train", "x_test", "y_test"] if "x_train" in known else ["x", "y"]

    arrays, known = read_npz(source, choose)
    wanted = choose(known)
    for name in wanted:
        if name not in arrays:
            raise ValueError(
                f"{source} has no array {name!r}, only {', '.join(known) or 'none'}; give x_train, y_train,"
                " x_test and y_test, or x and y"
            )
    images = [_npz_images(f"{source}: {name}", arrays[name]) for name in wanted[::2]]
    labels = [_npz_labels(f"{source}: {name}", arrays[name]) for name in wanted[1::2]]
    for name, x, (_, y) in zip(wanted[::2], images, labels, strict=True):
        if len(x) != len(y):
            raise ValueError(f"{source}: {name} has {len(x)} images but {len(y)} labels; give one an image")
    found, names = _label(labels, classes)
    if len(images) == 1:
        return Labelled(images[0], found[0], None, None, names)
    return Labelled(images[0], found[0], images[1], found[1], names)


def _npz_images(name: str, x: np.ndarray) -> np.ndarray:
    if x.ndim not in (3, 4) or x.size == 0:
        raise ValueError(f"{name} has shape {x.shape}; give (images, H, W) or (images, H, W, C), not empty")
    if x.dtype.kind not in "iu" or x.min() < 0 or x.max() > 255:
        what = x.dtype if x.dtype.kind not in "iu" else f"values from {x.min()} to {x.max()}"
        raise ValueError(f"{name} holds {what}; give whole pixel values 0..255 as uint8")
    return x.astype(np.uint8).reshape(*x.shape[:3], -1)


def _npz_labels(name: str, y: np.ndarray) -> tuple[str, np.ndarray]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise ValueError(f"{name} has shape {y.shape}, {y.dtype}; give integer labels of shape (images,)")
    return name, y


# --- folders of images ---


def _read_image_folders(path: Path) -> Labelled:
    parts = [path / "train", path / "test"]
    # a folder called train may also be one class of several
    present = [part.is_dir() and bool(_subfolders(part)) for part in parts]
    if any(present) and not all(present):
        missing = parts[present.index(False)]
        raise ValueError(f"{missing} holds no classes; give train/<class>/ and test/<class>/, or <class>/")
    folders = parts if all(present) else [path]
    classes = tuple(folder.name for folder in _subfolders(folders[0]))
    files: list[list[Path]] = []
    labels = []
    for folder in folders:
        names = tuple(inner.name for inner in _subfolders(folder))
        if not names:
            raise ValueError(f"{folder} holds no data set that can be read; give {ACCEPTED}")
        if names != classes:
            odd = sorted(set(names) ^ set(classes))
            raise ValueError(f"class folder {odd[0]!r} is not in both of {parts[0]} and {parts[1]}; add it")
        members = [_image_files(folder / name) for name in names]
        files.append([file for inner in members for file in inner])
        labels.append(np.repeat(np.arange(len(names)), [len(inner) for inner in members]))
    # both parts at once: one grey and one coloured part must come out with the same channels
    x = stack_images(_opened(file for part in files for file in part), sum(map(len, files)))
    if len(files) == 1:
        return Labelled(x, labels[0], None, None, classes)
    return Labelled(x[: len(files[0])], labels[0], x[len(files[0]) :], labels[1], classes)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(inner for inner in folder.iterdir() if inner.is_dir() and not inner.name.startswith("."))


def _image_files(folder: Path) -> list[Path]:
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise ValueError(
            f"class folder {folder} holds no {', '.join(SUFFIXES)} file; add some, remove it, or give"
            f" {ACCEPTED}"
        )
    return files


def _opened(files: Iterable[Path]) -> "Iterable[tuple[str, Image]]":
    from PIL import Image

    for file in files:
        try:
            # no other format under these names: some are handed to programs outside
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                if image.format == "PNG" and file.read_bytes()[24] > EIGHT_BITS:
                    raise ValueError(f"{file} has more than 8 bits a channel; save it with 8")
                image.load()
                yield str(file), image
        # a broken PNG is a SyntaxError to Pillow
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{file} is not a whole image ({error}); remove it or save it again") from error


# --- labels ---


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
