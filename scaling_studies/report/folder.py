"""What `qrt-tn ticket` leaves in its output folder, read back and checked before anything is drawn."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from qrt_tn.engine.files import load_tensors
from qrt_tn.studies.experiments.ticket.settings import TICKET
from qrt_tn.studies.report.manifest import read_manifest

TEXT_COLUMNS = ("method", "training")
NUMBER_COLUMNS = ("nodes", "seed", "score", "error", "rmse", "smoothing", "beta", "seconds", "parameters")
SHOWCASE_FORMAT = "qrt-tn.showcase"
# The shape of each showcase array: K nodes, D coordinates, P grid points.
SHOWCASE_SHAPES = {
    "a": "KD",
    "b": "K",
    "residual_spectrum": "P",
    "qrt_spectrum": "P",
    "filter_spectrum": "P",
}
AGAIN = "run qrt-tn ticket into this folder again"
NEEDED_SHOWCASE = ("a", "b")


@dataclass(frozen=True, eq=False)
class Band:
    """One measured column against node count: the mean over seeds and the range it lies in.

    Attributes:
        nodes: node counts, ascending, shape (n,).
        low: smallest value over seeds, shape (n,).
        mean: over seeds, shape (n,).
        high: largest value over seeds, shape (n,).
        seeds: how many seeds the most measured node count has.
    """

    nodes: np.ndarray
    low: np.ndarray
    mean: np.ndarray
    high: np.ndarray
    seeds: int


@dataclass(frozen=True, eq=False)
class TicketFolder:
    """The results of one run of `qrt-tn ticket`.

    Attributes:
        path: the folder.
        manifest: settings, states, timings and versions, from manifest.json.
        metrics: the columns of metrics.parquet by name, NaN where a number is missing: `nodes` of methods
            that have none, `rmse` (in the target's units) of labels. `score` is the accuracy or R^2 on the
            test points, `error` is 1 - score.
        showcase: arrays of a few drawn nodes and of the spectra, from showcase.safetensors.
    """

    path: Path
    manifest: dict[str, Any]
    metrics: dict[str, np.ndarray]
    showcase: dict[str, np.ndarray]

    @property
    def classification(self) -> bool:
        """Whether scores are accuracies; else they are R^2."""
        return self.manifest["dataset"].get("classes") is not None

    @property
    def counts(self) -> list[int]:
        """The node counts of the fitted ticket, ascending."""
        band = self.band(TICKET, "fitted", "score")
        return [] if band is None else band.nodes.tolist()

    def trainings(self, method: str) -> list[str]:
        """The ways in which a method was trained, in the order they were measured."""
        chosen = self.metrics["method"] == method
        return list(dict.fromkeys(self.metrics["training"][chosen].tolist()))

    def methods(self) -> list[str]:
        """The methods that were measured, in the order they were measured."""
        return list(dict.fromkeys(self.metrics["method"].tolist()))

    def values(
        self, method: str, training: str, nodes: int | None, column: str = "score"
    ) -> dict[int, float]:
        """A column by seed.

        Args:
            method: its name.
            training: how it was trained.
            nodes: of which count; None for methods that have none.
            column: of metrics.parquet.
        """
        metrics = self.metrics
        chosen = (metrics["method"] == method) & (metrics["training"] == training)
        chosen &= np.isnan(metrics["nodes"]) if nodes is None else metrics["nodes"] == nodes
        chosen &= np.isfinite(metrics[column])
        pairs = zip(metrics["seed"][chosen], metrics[column][chosen], strict=True)
        return {int(seed): float(value) for seed, value in pairs}

    def band(self, method: str, training: str, column: str) -> Band | None:
        """A column against node count for one method and training, or None where nothing was measured."""
        metrics = self.metrics
        chosen = (metrics["method"] == method) & (metrics["training"] == training)
        chosen &= np.isfinite(metrics[column]) & np.isfinite(metrics["nodes"])
        if not chosen.any():
            return None
        return _band(metrics["nodes"][chosen].astype(int), metrics[column][chosen])

    def bands(self, methods: Iterable[str], training: str, column: str) -> dict[str, Band]:
        """The bands of those of `methods` that were measured."""
        found = {method: self.band(method, training, column) for method in methods}
        return {method: band for method, band in found.items() if band is not None}


def _band(nodes: np.ndarray, values: np.ndarray) -> Band:
    counts = np.unique(nodes)
    groups = [values[nodes == count] for count in counts]
    return Band(
        counts,
        np.array([group.min() for group in groups]),
        np.array([group.mean() for group in groups]),
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
    results = TicketFolder(path, manifest, metrics, showcase)
    if not results.counts:
        raise ValueError(
            f"{path / 'metrics.parquet'} has no scores of a fitted {TICKET!r}, which the others are set "
            f"against; {AGAIN}"
        )
    return results


def _manifest(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path, AGAIN)
    kinds: dict[str, type] = {"title": str, "command": str, "dataset": dict, "modulus": int, "seeds": list}
    _check_kinds(path, manifest, kinds)
    kinds = dict.fromkeys(("points", "dim", "train", "validation", "test"), int)
    _check_kinds(path, manifest["dataset"], kinds | {"description": str, "names": list})
    optional: dict[str, type] = dict.fromkeys(("chosen", "states", "left_out"), list)
    optional |= dict.fromkeys(("timings", "versions", "machine", "model"), dict)
    _check_kinds(
        path, manifest, {key: kind for key, kind in optional.items() if manifest.get(key) is not None}
    )
    dim, names, shape = (manifest["dataset"].get(key) for key in ("dim", "names", "image_shape"))
    if len(names) != dim:
        raise ValueError(f"{path} has {len(names)} names for {dim} coordinates; {AGAIN}")
    if shape is not None and not _extents(shape, dim):
        raise ValueError(f"{path} has image_shape {shape!r}; it must be 2 or 3 extents with product {dim}")
    return manifest


def _extents(shape: Any, dim: int) -> bool:
    whole = isinstance(shape, list) and all(isinstance(extent, int) for extent in shape)
    return whole and len(shape) in (2, 3) and math.prod(shape) == dim


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
    for name in NUMBER_COLUMNS:
        try:
            metrics[name] = np.array(
                [np.nan if v is None else float(v) for v in table[name].to_pylist()], dtype=np.float64
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path} has text in the column {name!r} ({error}); it must hold numbers"
            ) from error
    if not np.isfinite(metrics["seed"]).all():
        raise ValueError(f"{path} has an empty entry in the column 'seed'; every row needs one")
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
