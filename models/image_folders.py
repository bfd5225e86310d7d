"""Read folders of images, one folder a class, in any format that Pillow reads."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine.progress import shown
from qrt_tn.models.tables import check_memory, first_line

_VALIDATION = ("val", "validation", "valid")
# What often lies beside images; any other file that is no image is refused.
_COMPANIONS = {".txt", ".csv", ".tsv", ".json", ".md", ".xml", ".yaml", ".yml", ".html", ".ini", ".db"}
_OUTSIDE = {"EPS"}  # formats that Pillow hands to a program outside
_BITS_PER_SAMPLE = 258  # a tag of TIFF


def read_folders(
    path: Path,
) -> tuple[list[tuple[np.ndarray, np.ndarray]], tuple[str, ...], tuple[str, ...]]:
    """Read <class>/ folders, or train/<class>/ with test/<class>/, val/<class>/ or both.

    Folders inside a class are part of it. Validation images are the test set where there is no test/, and
    training images otherwise. Hidden files, and those of the usual companions (.txt, .csv, ...), are left
    out and counted; any other file must be an image. Black and white is read as grey; a palette, alpha or any
    other 8-bit colours as RGB without the alpha; grey images become RGB where others in the set are coloured.

    Returns:
        (x, y) of the training part and of the test part, if there is one: x (M, H, W, C), uint8, and y (M,),
        int64; the names of the classes in alphabetical order; and notes on what was left out or joined.

    Raises:
        ValueError: files that are no images, images of several sizes or too large for the free memory, or
            folders of another layout.
    """
    parts, notes = _parts(path)
    beside = {path, *(folder for folders in parts for folder in folders)}  # of no class
    left_out = Counter(
        _kind(file) for folder in beside for file in folder.iterdir() if _hidden(file) or not file.is_dir()
    )
    classes = [inner.name for inner in _folders(parts[0][0])]
    files: list[Path] = []
    labels: list[list[int]] = []
    for folders in parts:
        labels.append([])
        for folder in folders:
            odd = sorted({inner.name for inner in _folders(folder)} ^ set(classes))
            if odd:
                raise ValueError(f"class folder {odd[0]!r} is not in every part of {path}; add it")
            for label, name in enumerate(classes):
                found = list(_files(folder / name, left_out))
                if not found:
                    raise ValueError(f"class folder {folder / name} holds no image; add some or remove it")
                files += found
                labels[-1] += [label] * len(found)
    if left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        notes.append(f"left out {left_out.total()} file{'s' * (left_out.total() > 1)} ({kinds})")
    # all at once: a grey and a coloured part must come out with the same channels
    x = _read(files)
    split = len(labels[0])
    y = [np.array(part, dtype=np.int64) for part in labels]
    return list(zip((x[:split], x[split:]), y, strict=False)), tuple(classes), tuple(notes)


def _parts(path: Path) -> tuple[list[list[Path]], list[str]]:
    """The folders of classes of the training part, and of the test part if there is one; and notes."""
    split = {folder.name.lower(): folder for folder in _folders(path)}
    # a folder called train may also be one class of several
    held = {name: folder for name, folder in split.items() if name in ("train", "test", *_VALIDATION)}
    filled = [name for name, folder in held.items() if _folders(folder)]
    if "train" not in filled and "test" not in filled:
        if len(split) < 2:
            names = ", ".join(folder.name for folder in split.values()) or "none"
            raise ValueError(
                f"{path} holds no data set that can be read: of two or more folders, one a class, it has"
                f" {names}"
            )
        return [[path]], []
    if "train" not in filled or len(held) < 2:
        missing = path / ("train" if "train" not in filled else "test")
        raise ValueError(f"{missing} holds no classes; give train/<class>/ and test/<class>/, or <class>/")
    for name, folder in split.items():
        if name not in filled:
            why = "holds no classes" if name in held else f"stands beside {held['train']}"
            raise ValueError(f"{folder} {why}; give train/<class>/ and test/<class>/, or move it away")
    validation = [held[name] for name in _VALIDATION if name in held]
    if "test" not in held:
        return [[held["train"]], validation], [f"{validation[0].name} is the test set"]
    notes = [f"{folder.name} joined the training images" for folder in validation]
    return [[held["train"], *validation], [held["test"]]], notes


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name == "__MACOSX"


def _folders(folder: Path) -> list[Path]:
    return sorted(inner for inner in folder.iterdir() if inner.is_dir() and not _hidden(inner))


def _kind(path: Path) -> str:
    return "hidden" if _hidden(path) else path.suffix.lower() or path.name


def _files(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """The files of a class and of the folders in it, in order; those left out are counted."""
    place = folder.resolve()
    for path in sorted(folder.iterdir()):
        if _hidden(path) or (path.suffix.lower() in _COMPANIONS and not path.is_dir()):
            left_out[_kind(path)] += 1
        elif path.is_dir():
            if path.resolve() in (place, *place.parents):  # followed, it would lead around without end
                raise ValueError(f"{path} is a link to a folder that it lies in; remove it")
            yield from _files(path, left_out)
        else:
            yield path


def _read(files: list[Path]) -> np.ndarray:
    """The pixels of images of one size, (images, H, W, 1) if all are grey, else (images, H, W, 3); uint8."""
    from PIL import Image

    Image.preinit()  # the usual formats are tried first
    Image.init()
    formats = [kind for kind in Image.ID if kind not in _OUTSIDE]
    read, largest = list[np.ndarray](), 0
    with shown(None, len(files), "images") as progress:
        for file in files:
            try:
                with Image.open(file, formats=formats) as image:
                    problem = _problem(image, file)
                    image.load()
            except Exception as error:  # each of Pillow's readers fails in its own ways
                raise ValueError(
                    f"{file} is not a whole image ({first_line(error)}); remove it or save it again"
                ) from error
            if problem:
                raise ValueError(f"{file} {problem}")
            read.append(_pixels(image))
            (height, width), first = read[-1].shape[:2], read[0].shape
            if (height, width) != first[:2]:
                raise ValueError(
                    f"{file} has {height} x {width} pixels, the images before it {first[0]} x {first[1]}"
                    " (height x width); bring all to one size"
                )
            if read[-1].size > largest:  # the first, and the first in colour
                largest = read[-1].size
                check_memory(f"{len(files)} images of shape {read[-1].shape}", len(files) * largest)
            progress(len(read), len(files))
    stack = np.empty((len(files), *first[:2], max(pixels.shape[2] for pixels in read)), dtype=np.uint8)
    for number, pixels in enumerate(read):
        stack[number] = pixels
    return stack


def _pixels(image: Any) -> np.ndarray:
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[:, :, None]
    # Pillow warns of some palettes with transparency unless they pass through RGBA
    plain = image.convert("RGBA") if image.mode in ("P", "PA") else image
    return np.asarray(plain.convert("RGB"))


def _problem(image: Any, file: Path) -> str:
    """What Pillow would leave out without a word, or ""."""
    # some telephones' .jpg hold a preview beside the picture
    if getattr(image, "is_animated", False) and image.format != "MPO":
        return f"holds {image.n_frames} pictures; save each as a file"
    if image.mode[0] in "IF":
        return f"has more than 8 bits a channel (mode {image.mode}); save it with 8"
    bits = 8
    if image.format == "PNG":
        with file.open("rb") as content:
            bits = content.read(25)[24]
    elif image.format == "TIFF":
        bits = max(np.atleast_1d(image.tag_v2.get(_BITS_PER_SAMPLE, 8)))
    return f"has more than 8 bits a channel ({bits}); save it with 8" if bits > 8 else ""
