"""Folders of images in every format, nested and in parts; counts of what is read; refusals by name."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from qrt_tn.models import tables
from qrt_tn.models.images import load_images
from tests.models.conftest import assert_holds, pixels

pytestmark = pytest.mark.usefixtures("nothing_at_hand")
LOSSLESS = ("png", "bmp", "tif", "tga", "ppm", "qoi")
LOSSY = ("jpg", "jfif", "JPG", "webp", "gif", "jp2")


def write(folder, suffixes=("png",), classes=("ant", "bee"), each=2):
    """Images and labels in the order of the files' names."""
    x, y = [], []
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            x.append(pixels(8, 6, 3))
            y.append(label)
            Image.fromarray(x[-1]).save(folder / name / f"{number}.{suffixes[number % len(suffixes)]}")
    return np.stack(x), np.array(y)


def test_every_format_that_pillow_reads_is_read(tmp_path):
    x, y = write(tmp_path / "train", LOSSLESS, each=len(LOSSLESS))
    x_test, y_test = write(tmp_path / "test", LOSSY, each=len(LOSSY))
    images = load_images(tmp_path)
    assert_holds(images, x, y, images.x_test, y_test)
    assert (images.x_test.shape, images.classes) == (x_test.shape, ("ant", "bee"))
    assert images.describe().endswith("2 classes: 12 for training, 12 for the test")


def test_all_images_of_nested_folders_are_read_and_the_others_counted(tmp_path):
    x, _ = write(tmp_path / "set", each=3)
    nested, _ = write(tmp_path / "set" / "bee" / "more", each=2)
    for name in (".hidden.png", "bee/more/ant/notes.txt", "Thumbs.db", "cover.png", "ant/labels.CSV"):
        (tmp_path / "set" / name).write_bytes(b"no image")
    (tmp_path / "set" / ".git").mkdir()
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(pixels(8, 6, 3)).save(tmp_path / "elsewhere" / "linked.png")
    (tmp_path / "set" / "ant" / "link").symlink_to(tmp_path / "elsewhere")
    images = load_images(tmp_path / "set")
    everything = sorted(map(bytes, [*images.x, *images.x_test]))
    assert len(everything) == 11
    assert set(map(bytes, [*x, *nested])) <= set(everything)
    assert sorted([*images.y, *images.y_test]) == [0] * 4 + [1] * 7
    assert images.describe() == (
        "set: 11 images of 8 x 6 x 3 in 2 classes: 9 for training, 2 for the test, drawn at random, left out"
        " 6 files (1 .csv, 1 .db, 1 .png, 1 .txt, 2 hidden)"
    )


@pytest.mark.parametrize("validation", ["val", "validation", "valid", "Val"])
def test_validation_images_train_or_are_the_test_set(validation, tmp_path):
    x, y = write(tmp_path / "train")
    x_validation, y_validation = write(tmp_path / validation)
    images = load_images(tmp_path)
    assert_holds(images, x, y, x_validation, y_validation)
    assert images.notes == (f"{validation} is the test set",)
    x_test, y_test = write(tmp_path / "Test")
    images = load_images(tmp_path)
    assert_holds(images, np.concatenate([x, x_validation]), np.concatenate([y, y_validation]), x_test, y_test)
    assert images.notes == (f"{validation} joined the training images",)


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path, classes=("plane", "train"), each=5)
    assert load_images(tmp_path).classes == ("plane", "train")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_colours_become_rgb_and_grey_stays_grey(mode, tmp_path):
    suffix = "tif" if mode in ("CMYK", "YCbCr", "PA") else "png"
    image = Image.fromarray(pixels(8, 6))
    image = (image if mode in "1L" else image.convert("RGB")).convert(mode.replace("PA", "P"))
    expected = np.asarray(image.convert("L" if mode in "1L" else "RGB")).reshape(8, 6, -1)
    for folder in ("train/ant", "train/bee", "test/ant", "test/bee"):
        (tmp_path / folder).mkdir(parents=True)
        image.save(tmp_path / folder / f"0.{suffix}")
    images = load_images(tmp_path)
    assert all(np.array_equal(found, expected) for found in [*images.x, *images.x_test])
    coloured = pixels(8, 6, 3)
    Image.fromarray(coloured).save(tmp_path / "test" / "bee" / "1.png")
    images = load_images(tmp_path)
    np.testing.assert_array_equal(images.x_test[2], coloured)
    for found in (*images.x, *images.x_test[:2]):
        np.testing.assert_array_equal(found, np.broadcast_to(expected, (8, 6, 3)))


def test_a_torn_image_is_named_wherever_it_is_torn(tmp_path):
    write(tmp_path, ("png", "jpg", "bmp", "webp"), each=4)
    for path in sorted((tmp_path / "bee").iterdir()):
        whole = path.read_bytes()
        for length in range(0, len(whole) - 30, max(1, len(whole) // 3)):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=rf"{path} is not a whole image .*[^\n]*$"):
                load_images(tmp_path)
        path.write_bytes(whole)


def frames(path):
    first, *rest = (Image.fromarray(pixels(8, 6)) for _ in range(3))
    first.save(path, save_all=True, append_images=rest)


def black(path):
    Image.new("RGB", (8, 6)).save(path)


def deep(dtype):
    return lambda path: Image.fromarray(np.zeros((8, 6), dtype)).save(path)


def deep_colours(path):
    """An RGB PNG of 16 bits a channel, which Pillow would round to 8."""
    header = struct.pack(">IIBBBBB", 6, 8, 16, 2, 0, 0, 0)
    parts = [b"IHDR" + header, b"IDAT" + zlib.compress(bytes(8 * (1 + 6 * 3 * 2))), b"IEND"]
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with Image.open(path) as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize(
    ("name", "make", "told"),
    [
        ("a.png", black, "6 x 8 pixels.* 8 x 6"),
        ("a.png", deep(np.uint16), "8 bits"),
        ("a.png", deep_colours, "8 bits"),
        ("a.tif", deep(np.float32), "8 bits"),
        ("a.gif", frames, "holds 3 pictures"),
        ("a.tif", frames, "holds 3 pictures"),
        ("a.npy", lambda path: np.save(path, np.eye(3)), "no.* image"),
        ("a.pdf", black, "no.* image"),
        ("a.eps", black, "no.* image"),
        ("pipe", os.mkfifo, "no file"),
        ("loop", lambda path: path.symlink_to(path.parent), "link"),
    ],
)
def test_odd_files_are_named(name, make, told, tmp_path):
    write(tmp_path)
    make(tmp_path / "bee" / name)
    with pytest.raises(ValueError, match=rf"bee/.*{name}.* {told}") as caught:
        load_images(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ((), "none"),
        (("animals/ant", "animals/bee"), "animals"),
        (("train/ant", "train/bee"), "train.*test/<class>"),
        (("train/ant", "train/bee", "test"), "test, train"),
        (("test/ant", "test/bee"), "test"),
        (("train/ant", "test/ant", "test/bee"), "train/bee holds no image"),
        (("train/ant", "test/ant", "extra/ant"), "extra"),
        (("ant", "bee", "wasp/none"), "wasp holds no image"),
    ],
)
def test_odd_folders_are_named(made, told, tmp_path):
    for name in made:
        (tmp_path / name).mkdir(parents=True)
        if name[-3:] in ("ant", "bee"):
            Image.fromarray(pixels(8, 6, 3)).save(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match=told) as caught:
        load_images(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_images_beyond_a_quarter_of_the_free_memory_are_refused(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(tables, "memory_limit", lambda: 4 * 8 * 6 * 3 - 1)
    with pytest.raises(ValueError, match=r"4 images of shape \(8, 6, 3\).*a quarter of the free memory"):
        load_images(tmp_path)
