from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from qrt_tn.studies.experiments.moe.data import calibration_images, draw_points, load_set, parse_spec


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("digits", ("digits", None)),
        ("digits:0-4", ("digits", (0, 1, 2, 3, 4))),
        ("mnist:9,1,3-4", ("mnist", (9, 1, 3, 4))),
        ("/a:b/set.npz", ("/a:b/set.npz", None)),
        ("/a:b/set.npz:1,2", ("/a:b/set.npz", (1, 2))),
    ],
)
def test_a_set_and_its_classes(text: str, found: tuple[str, tuple[int, ...] | None]) -> None:
    assert parse_spec(text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not of the form"),
        ("digits:", "not of the form"),
        (":0-4", "names no set"),
        ("digits:4-0", "'4-0' of 'digits:4-0' fall"),
        ("digits:1,0-3", "names a class twice"),
        ("digits:3", "only one class"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_spec(text)


def test_some_classes_are_all_their_images_and_are_counted_from_0() -> None:
    images = load_set("digits:9,5-6")
    assert images.classes == ("9", "5", "6")
    assert images.name == "digits:9,5-6"
    x, y = np.concatenate([images.x, images.x_test]), np.concatenate([images.y, images.y_test])
    known = load_digits()
    for label, digit in enumerate((9, 5, 6)):
        ours = sorted(map(bytes, x[y == label].astype(np.uint8)))
        assert ours == sorted(map(bytes, known.images[known.target == digit].astype(np.uint8)))
    with pytest.raises(ValueError, match="digits has no class 10"):
        load_set("digits:8-10")


def test_training_and_test_images_are_apart_and_all_are_used() -> None:
    images = load_set("digits:0-1")
    drawn = draw_points(images, 3, 100, 10_000)
    assert len(drawn.x) == 100
    assert len(drawn.x_test) == len(images) + len(images.x_test) - 100
    # the set's own test images come first
    assert np.array_equal(drawn.y_test[: len(images.y_test)], images.y_test)
    seen = {bytes(one) for one in drawn.x}
    assert not any(bytes(one) in seen for one in drawn.x_test)
    assert len(draw_points(images, 3, 100, 50).x_test) == 50
    assert len(draw_points(images, 3, None, 50).x) == len(images) - 1
    assert not np.array_equal(draw_points(images, 4, 100, 50).y, drawn.y)
    with pytest.raises(ValueError, match=f"which has {len(images)}; give 1 to {len(images) - 1}"):
        draw_points(images, 0, len(images), 10)


def test_images_to_calibrate_with_are_floats_as_they_are_or_a_standardised_set(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 1))
    np.savez(tmp_path / "x.npz", x=x)
    found, name = calibration_images(str(tmp_path / "x.npz"), 3, 0)
    assert np.array_equal(found, x[:3].astype(np.float32))
    assert name == "x.npz"
    found, name = calibration_images("digits:5-9", 40, 0)
    assert found.shape == (40, 8, 8, 1)
    assert abs(found.mean()) < 0.1
    np.savez(tmp_path / "bytes.npz", x=(x * 9).astype(np.uint8))
    with pytest.raises(ValueError, match=r"x of .*bytes.npz is uint8"):
        calibration_images(str(tmp_path / "bytes.npz"), 3, 0)


def test_a_broken_file_and_a_class_beyond_all_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04junk")
    with pytest.raises(ValueError, match="not a whole npz file"):
        calibration_images(str(tmp_path / "a.npz"), 5, 0)
    with pytest.raises(ValueError, match="digits; n"):
        parse_spec("digits:0-99999999999")
