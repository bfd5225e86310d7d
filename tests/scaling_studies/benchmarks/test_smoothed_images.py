import gzip
import json
import struct

import numpy as np
import pytest

from qrt_tn.studies import cli
from qrt_tn.studies.benchmarks import smoothed_images


def write(path, array):
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))


@pytest.fixture
def folder(tmp_path):
    """Two kinds of 2 x 3 images: bright on the left, or on the right."""
    rng = np.random.default_rng(0)
    made = tmp_path / "images"
    made.mkdir()
    for part, count in (("train", 60), ("t10k", 30)):
        labels = rng.integers(2, size=count, dtype=np.uint8)
        images = rng.integers(40, size=(count, 2, 3), dtype=np.uint8)
        images[np.arange(count), :, 2 * labels] += 200
        write(made / f"{part}-images-idx3-ubyte.gz", images)
        write(made / f"{part}-labels-idx1-ubyte.gz", labels)
    return made


def call(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["qrt-tn", "bench", "smoothed-images", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


def test_a_row_for_every_width_and_count(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(smoothed_images, "NODES", 8)
    out = tmp_path / "result.json"
    options = ("--points", "40,60", "--smoothing", "0.8,auto", "--tolerance", "0.02", "--out", out)
    assert call(monkeypatch, folder, *options) == 0
    found = json.loads(out.read_text())
    assert found["benchmark"] == "smoothed_images"
    assert [(row["smoothing"], row["points"]) for row in found["rows"]] == [
        (0.8, 40),
        (0.8, 60),
        ("auto", 40),
        ("auto", 60),
    ]
    assert len(capsys.readouterr().out.splitlines()) == 4
    for row in found["rows"]:
        assert (row["dim"], row["classes"], row["nodes"]) == (6, 2, 8)
        assert row["error"] <= 0.02
        assert row["build_seconds"] > 0
        # one coordinate tells the classes apart
        assert min(row["accuracy"]) > 0.9
        assert len(row["filter_accuracy"]) == len(row["accuracy"])


def test_a_missing_file_is_named(folder, monkeypatch, capsys):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert call(monkeypatch, folder) == 2
    assert "no file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--points", "61"), "points is 61; give from 2 to 60"),
        (("--smoothing", "wide"), "smoothing is 'wide'; give auto or a number"),
    ],
)
def test_bad_options_are_named(folder, monkeypatch, capsys, options, message):
    assert call(monkeypatch, folder, *options) == 2
    assert message in capsys.readouterr().err
