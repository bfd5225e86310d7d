"""Read folders of images, one folder a class, in any format that Pillow reads."""

from collections import Counter
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
        The fields of `image_files.Labelled`, classes in alphabetical order.

    Raises:
        ValueError: files that are no images, images of several sizes or too large for the free memory, or
            folders of another layout.
    """
    parts, notes = _parts(path)
    left_out = Counter[str]()
    for folder in {path, *(folder for folders in parts for folder in folders)}:
        left_out.update(_kind(file) for file in folder.iterdir() if _hidden(file) or not file.is_dir())
    classes = sorted({inner.name for folders in parts for folder in folders for inner in _folders(folder)})
    files, labels = list[Path](), list[np.ndarray]()
    for folders in parts:
        counts = list[int]()
        for place in (folder / name for folder in folders for name in classes):
            found = _files(place, left_out) if place.is_dir() else []
            if not found:
                raise ValueError(f"class folder {place} holds no image; add some, or remove the class")
            files += found
            counts.append(len(found))
        labels.append(np.repeat(np.tile(np.arange(len(classes)), len(folders)), counts))
    if left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        notes.append(f"left out {left_out.total()} file{'s' * (left_out.total() > 1)} ({kinds})")
    # all at once: a grey and a coloured part must come out with the same channels
    x = np.split(_read(files), [len(labels[0])])
    return list(zip(x, labels, strict=False)), tuple(classes), tuple(notes)


def _parts(path: Path) -> tuple[list[list[Path]], list[str]]:
    """The folders of classes of the training part, and of the test part if there is one; and notes."""
    split = {folder.name.lower(): folder for folder in _folders(path)}
    # a folder called train may also be one class of several
    filled = {name for name in split if name in ("train", "test", *_VALIDATION) and _folders(split[name])}
    if not filled & {"train", "test"}:
        if len(split) < 2:
            held = ", ".join(folder.name for folder in split.values()) or "none"
            raise ValueError(f"{path} has no two folders, one a class, but {held}; no data set can be read")
        return [[path]], []
    validation = [split[name] for name in _VALIDATION if name in filled]
    if "train" not in filled or len(filled) < 2 or len(split) > len(filled):
        raise ValueError(
            f"{path} has the folders {', '.join(sorted(split))}, of which {', '.join(sorted(filled))} hold"
            " classes; give train/<class>/ with test/<class>/ or val/<class>/ and no others, or <class>/"
        )
    if "test" not in split:
        return [[split["train"]], validation], [f"{validation[0].name} is the test set"]
    notes = [f"{folder.name} joined the training images" for folder in validation]
    return [[split["train"], *validation], [split["test"]]], notes


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name == "__MACOSX"


def _folders(folder: Path) -> list[Path]:
    return sorted(inner for inner in folder.iterdir() if inner.is_dir() and not _hidden(inner))


def _kind(path: Path) -> str:
    return "hidden" if _hidden(path) else path.suffix.lower() or path.name


def _files(folder: Path, left_out: Counter[str]) -> list[Path]:
    """The files of a class and of the folders in it, in order; those left out are counted."""
    files, place = list[Path](), folder.resolve()
    for path in sorted(folder.iterdir()):
        if _hidden(path) or (path.suffix.lower() in _COMPANIONS and not path.is_dir()):
            left_out[_kind(path)] += 1
        elif path.is_file():
            files.append(path)
        elif not path.is_dir():  # a pipe would be waited for without end
            raise ValueError(f"{path} is no file; remove it")
        elif path.resolve() in (place, *place.parents):  # followed, it would lead around without end
            raise ValueError(f"{path} is a link to a folder that it lies in; remove it")
        else:
            files += _files(path, left_out)
    return files


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
                raise ValueError(f"{file} is not a whole image ({first_line(error)}); remove it") from error
            if problem:
                raise ValueError(f"{file} {problem}")
            read.append(_pixels(image))
            shape, first = read[-1].shape, read[0].shape
            if shape[:2] != first[:2]:
                sizes = f"{shape[0]} x {shape[1]} pixels, the images before it {first[0]} x {first[1]}"
                raise ValueError(f"{file} has {sizes} (height x width); bring all to one size")
            if read[-1].size > largest:  # the first, and the first in colour
                largest = read[-1].size
                check_memory(f"{len(files)} images of shape {shape}", len(files) * largest)
            progress(len(read), len(files))
    channels = max(pixels.shape[2] for pixels in read)
    return np.stack([np.broadcast_to(pixels, (*first[:2], channels)) for pixels in read])


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
    bits = 16 if image.mode[0] in "IF" else 8
    if image.format == "PNG":
        with file.open("rb") as content:
            bits = content.read(25)[24]
    elif image.format == "TIFF":
        bits = max(np.atleast_1d(image.tag_v2.get(_BITS_PER_SAMPLE, bits)))
    return f"has more than 8 bits a channel ({image.mode}, {bits}); save it with 8" if bits > 8 else ""
