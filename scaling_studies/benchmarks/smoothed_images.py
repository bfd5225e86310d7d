"""Times the compression of smoothed images, classes one-hot, and tells bond, error and what tickets score.

    python -m qrt_tn.studies.benchmarks.smoothed_images FOLDER [result.json]

FOLDER holds train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz, and t10k-... for the test, in the
format of MNIST; Debian's package dataset-fashion-mnist puts Fashion-MNIST into
/usr/share/datasets/fashion-mnist. Output weights of tickets are fitted on the images that were compressed.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from qrt_tn import (
    Quantizer,
    QuantumRidgeletTransform,
    Ridgelet,
    RidgeNodes,
    diagnose,
    filter_nodes,
    states,
)
from qrt_tn.models import RidgeNetwork, one_hot, read_idx
from qrt_tn.studies.benchmarks.record import record

MODULUS = 127
LEVELS = 17
NODES = 512
ACTIVATION = "cosine"
RIDGE = 10.0
AUTO = "auto"
DRAWS = 4  # tickets whose scores are averaged


class Images(NamedTuple):
    """Quantised points, uint8 of shape (M, D), and labels 0..C-1."""

    x: np.ndarray
    y: np.ndarray


def load(folder: Path) -> tuple[Images, Images]:
    """Images for training and for the test, quantised alike.

    Raises:
        ValueError: a file is missing, of another format, or not whole.
    """
    flat, labels = [], []
    for part in ("train", "t10k"):
        images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
        flat.append(images.reshape(len(images), -1))
        labels.append(read_idx(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int64))
    quantizer = Quantizer("uniform", levels=LEVELS, modulus=MODULUS, scope="global").fit(flat[0])
    points = [quantizer.transform(values).astype(np.uint8) for values in flat]
    return Images(points[0], labels[0]), Images(points[1], labels[1])


def measure(train: Images, test: Images, *, smoothing: Any, tolerance: float) -> dict[str, Any]:
    """Seconds, bond and error of the smoothed state, and what its tickets and the filter's score.

    Args:
        train: the images to compress.
        test: images to score tickets on.
        smoothing: "auto", or a width.
        tolerance: the largest relative error.
    """
    classes = int(train.y.max()) + 1
    started = time.perf_counter()
    state = states.from_samples(
        train.x,
        one_hot(train.y, classes).astype(np.float32),
        MODULUS,
        smoothing=smoothing,
        tolerance=tolerance,
    )
    built = time.perf_counter() - started
    assert isinstance(state, states.SmoothedState)
    qrt = QuantumRidgeletTransform(state, Ridgelet(ACTIVATION, MODULUS), "numpy")
    started = time.perf_counter()
    qrt.sample(NODES)
    drawn = time.perf_counter() - started
    width = state.smoothing
    entropy = diagnose(qrt, NODES, smoothing=width).entropy
    own = [_score(qrt.sample(NODES, seed), qrt.ridgelet, train, test) for seed in range(DRAWS)]
    blind = [
        _score(filter_nodes(NODES, state.dim, qrt.ridgelet, width, seed), qrt.ridgelet, train, test)
        for seed in range(DRAWS)
    ]
    return {
        "points": len(train.x),
        "dim": state.dim,
        "classes": classes,
        "smoothing": smoothing,
        "mean_width": float(np.mean(width)),
        "tolerance": tolerance,
        "error": state.truncation_error,
        "error_std": state.truncation_error_std,
        "bond": max(state.bond_dimensions),
        "sketch_bond": state.sketch_bond,
        "build_seconds": built,
        "nodes": NODES,
        "draw_seconds": drawn,
        "entropy": [entropy.value, entropy.error],
        "accuracy": own,
        "filter_accuracy": blind,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the figures, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a folder of gzipped IDX files")
    parser.add_argument("output", nargs="?", type=Path, help="a JSON file for the results")
    parser.add_argument("--points", type=int, nargs="*", default=[], help="how many images; all by default")
    parser.add_argument("--smoothing", nargs="*", default=[AUTO], help="auto, or widths")
    parser.add_argument("--tolerance", type=float, default=0.05, help="the largest relative error")
    options = parser.parse_args(arguments)
    train, test = load(options.folder)
    widths = [_width(text) for text in options.smoothing]
    for points in options.points:
        if not 2 <= points <= len(train.x):
            raise ValueError(f"points is {points}; give from 2 to {len(train.x)}, which the folder holds")
    rows = []
    for width in widths:
        for points in options.points or [len(train.x)]:
            some = Images(train.x[:points], train.y[:points])
            row = measure(some, test, smoothing=width, tolerance=options.tolerance)
            rows.append(row)
            print(_line(row), flush=True)
    record(
        options.output,
        "smoothed_images",
        rows,
        modulus=MODULUS,
        levels=LEVELS,
        activation=ACTIVATION,
        ridge=RIDGE,
        data=options.folder.name,
    )


def _width(text: str) -> float | str:
    if text == AUTO:
        return AUTO
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"smoothing is {text!r}; give auto or a number") from None


def _score(nodes: RidgeNodes, ridgelet: Ridgelet, train: Images, test: Images) -> float:
    """Test accuracy of nodes with fitted output weights."""
    classes = int(train.y.max()) + 1
    network = RidgeNetwork(nodes, ridgelet, classes, rngs=nnx.Rngs(0))
    network.fit(train.x, one_hot(train.y, classes, centre=False), RIDGE)
    return float((network.predict(test.x).argmax(axis=1) == test.y).mean())


def _line(row: dict[str, Any]) -> str:
    own, blind = (statistics.mean(row[name]) for name in ("accuracy", "filter_accuracy"))
    return (
        f"M = {row['points']}, D = {row['dim']}, w = {row['mean_width']:.3g} ({row['smoothing']}): "
        f"bond {row['bond']}, error {row['error']:.3g} ± {row['error_std']:.1g}, "
        f"{row['build_seconds']:.1f} s to build, {row['draw_seconds']:.2f} s for {NODES} nodes, "
        f"accuracy {own:.4f} (filter {blind:.4f}), at most {row['peak_bytes'] / 2**30:.2f} GiB so far"
    )


if __name__ == "__main__":
    main()
