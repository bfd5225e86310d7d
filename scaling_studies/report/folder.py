"""What `qrt-tn ticket` leaves in its output folder, read back and checked before anything is drawn."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from qrt_tn.engine.atomic import load_tensors
from qrt_tn.studies.report.manifest import read_manifest

TEXT_COLUMNS = ("method", "training")
NUMBER_COLUMNS = (
    "nodes",
    "seed",
    "smoothing",
    "train_accuracy",
    "validation_accuracy",
    "test_accuracy",
    "train_risk",
    "validation_risk",
    "test_risk",
    "seconds",
    "parameters",
)
OPTIONAL_COLUMNS = ("draws",)
SHOWCASE_FORMAT = "qrt-tn.showcase"
# The shape of each showcase array: K nodes, D coordinates, P grid points. The first four tell of drawn
# nodes and are needed; a run that has no filter, say, may leave out a spectrum.
SHOWCASE_SHAPES = {
    "b": "K",
    "v": "K",
    "u": "KD",
    "probability": "KP",
    "a": "KD",
    "profiles": "KP",
    "node_spectrum_smoothed": "P",
    "node_spectrum_unsmoothed": "P",
    "filter_spectrum": "P",
    "activation": "P",
    "ridgelet_spectrum": "P",
}
AGAIN = "run qrt-tn ticket into this folder again"
NEEDED_SHOWCASE = ("b", "v", "u", "probability")


@dataclass(frozen=True, eq=False)
class Band:
    """One measured column against node count: the median over seeds and the range it lies in.

    Attributes:
        nodes: node counts, ascending, shape (n,).
        low: smallest value over seeds, shape (n,).
        median: median over seeds, shape (n,).
        high: largest value over seeds, shape (n,).
        seeds: how many seeds the most measured node count has.
    """

    nodes: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray
    seeds: int

    def at(self, nodes: int) -> tuple[float, float, float] | None:
        """Low, median and high at a node count, or None where it was not measured."""
        found = np.flatnonzero(self.nodes == nodes)
        if not len(found):
            return None
        return float(self.low[found[0]]), float(self.median[found[0]]), float(self.high[found[0]])


@dataclass(frozen=True, eq=False)
class TicketFolder:
    """The results of one run of `qrt-tn ticket`.

    Attributes:
        path: the folder.
        manifest: settings, states, timings and versions, from manifest.json.
        metrics: the columns of metrics.parquet by name, NaN where a number is missing.
        showcase: arrays of a few drawn nodes and of the spectra, from showcase.safetensors.
    """

    path: Path
    manifest: dict[str, Any]
    metrics: dict[str, np.ndarray]
    showcase: dict[str, np.ndarray]

    @property
    def classification(self) -> bool:
        """Whether accuracies were measured; otherwise risk is the score."""
        return bool(np.isfinite(self.metrics["test_accuracy"]).any())

    def score(self, split: str) -> str:
        """The column that says how good a network is on a split: its accuracy, or else its risk."""
        return f"{split}_{'accuracy' if self.classification else 'risk'}"

    def trainings(self, method: str) -> list[str]:
        """The ways in which a method was trained, in the order they were measured."""
        chosen = self.metrics["method"] == method
        return list(dict.fromkeys(self.metrics["training"][chosen].tolist()))

    def methods(self) -> list[str]:
        """The methods that were measured, in the order they were measured."""
        return list(dict.fromkeys(self.metrics["method"].tolist()))

    @property
    def class_count(self) -> int | None:
        """How many classes the data have, None for real targets."""
        classes = self.manifest["dataset"].get("classes")
        return len(classes) if isinstance(classes, list) else classes

    def band(self, method: str, training: str, column: str) -> Band | None:
        """A column against node count for one method and training, or None where nothing was measured."""
        chosen = self._measured(method, training, column)
        if not chosen.any():
            return None
        return _band(self.metrics["nodes"][chosen].astype(int), self.metrics[column][chosen])

    def bands(self, methods: Iterable[str], training: str, column: str) -> dict[str, Band]:
        """The bands of those of `methods` that were measured."""
        found = {method: self.band(method, training, column) for method in methods}
        return {method: band for method, band in found.items() if band is not None}

    def gain(self, method: str, other: str, training: str, column: str) -> Band | None:
        """`column` of one method minus that of another, paired by node count and seed."""
        values = []
        for name in (method, other):
            chosen = self._measured(name, training, column)
            triples = zip(*(self.metrics[key][chosen] for key in ("nodes", "seed", column)), strict=True)
            values.append({(int(nodes), int(seed)): float(value) for nodes, seed, value in triples})
        pairs = [key for key in values[0] if key in values[1]]
        if not pairs:
            return None
        differences = np.array([values[0][key] - values[1][key] for key in pairs])
        return _band(np.array([nodes for nodes, _ in pairs]), differences)

    def _measured(self, method: str, training: str, column: str) -> np.ndarray:
        chosen = (self.metrics["method"] == method) & (self.metrics["training"] == training)
        return chosen & np.isfinite(self.metrics[column])


def _band(nodes: np.ndarray, values: np.ndarray) -> Band:
    counts = np.unique(nodes)
    groups = [values[nodes == count] for count in counts]
    return Band(
        counts,
        np.array([group.min() for group in groups]),
        np.array([np.median(group) for group in groups]),
        np.array([group.max() for group in groups]),
        max(len(group) for group in groups),
    )


def load(folder: str | Path) -> TicketFolder:
    """Read a folder that `qrt-tn ticket` wrote.

    Raises:
        ValueError: no such folder, or a missing, torn or malformed file in it.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"no folder {path}; give the output folder of qrt-tn ticket")
    manifest = _manifest(path / "manifest.json")
    metrics = _metrics(path / "metrics.parquet")
    showcase = _showcase(path / "showcase.safetensors", manifest["modulus"], manifest["dataset"])
    return TicketFolder(path, manifest, metrics, showcase)


def _manifest(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path, AGAIN)
    kinds: dict[str, type] = {"title": str, "command": str, "dataset": dict, "modulus": int, "seeds": list}
    _check_kinds(path, manifest, kinds)
    _check_kinds(path, manifest["dataset"], {"points": int, "dim": int})
    optional: dict[str, type] = dict.fromkeys(("node_counts", "selection", "chosen", "states", "notes"), list)
    optional |= dict.fromkeys(("broad", "timings", "versions", "machine"), dict)
    _check_kinds(
        path, manifest, {key: kind for key, kind in optional.items() if manifest.get(key) is not None}
    )
    dim, shape = manifest["dataset"]["dim"], manifest["dataset"].get("image_shape")
    if shape is not None and (not isinstance(shape, list) or len(shape) != 2 or np.prod(shape) != dim):
        raise ValueError(f"{path} has image_shape {shape!r}; it must be two extents with product {dim}")
    return manifest


def _check_kinds(path: Path, entries: dict[str, Any], kinds: dict[str, type]) -> None:
    for key, kind in kinds.items():
        if not isinstance(entries.get(key), kind) or isinstance(entries[key], bool):
            got = f"{entries[key]!r:.60}" if key in entries else "no entry"
            raise ValueError(f"{path} has {got} for {key!r}, which must be a {kind.__name__}; {AGAIN}")


def _metrics(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"no file {path}; {AGAIN}")
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a whole parquet file ({first_line}); {AGAIN}") from error
    missing = [name for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS) if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; {AGAIN}")
    if table.num_rows == 0:
        raise ValueError(f"{path} holds no rows; {AGAIN}")
    metrics = {name: np.array(table[name].to_pylist(), dtype=object) for name in TEXT_COLUMNS}
    for name in (*NUMBER_COLUMNS, *(name for name in OPTIONAL_COLUMNS if name in table.column_names)):
        try:
            metrics[name] = np.array(
                [np.nan if v is None else float(v) for v in table[name].to_pylist()], dtype=np.float64
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path} has text in the column {name!r} ({error}); it must hold numbers"
            ) from error
    for name in ("nodes", "seed"):
        if not np.isfinite(metrics[name]).all():
            raise ValueError(f"{path} has an empty entry in the column {name!r}; every row needs one")
    return metrics


def _showcase(path: Path, modulus: int, dataset: dict[str, Any]) -> dict[str, np.ndarray]:
    showcase, _ = load_tensors(path, SHOWCASE_FORMAT)
    for name in NEEDED_SHOWCASE:
        if name not in showcase:
            raise ValueError(f"{path} lacks the array {name!r}; {AGAIN}")
    extents = {"K": len(np.atleast_1d(showcase["b"])), "D": dataset["dim"], "P": modulus}
    for name, letters in SHOWCASE_SHAPES.items():
        wanted = tuple(extents[letter] for letter in letters)
        if name in showcase and showcase[name].shape != wanted:
            raise ValueError(
                f"{path} has {name!r} of shape {showcase[name].shape}; it must have shape {wanted}"
            )
        if name in showcase and not np.isfinite(showcase[name]).all():
            raise ValueError(f"{path} has a value in {name!r} that is not finite; {AGAIN}")
    return showcase
