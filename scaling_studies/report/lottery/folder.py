"""What `qrt-tn lottery` leaves in its output folder, read back and checked before anything is drawn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from qrt_tn.studies.report.lottery.series import Columns, Points, points
from qrt_tn.studies.report.manifest import read_manifest

AGAIN = "run qrt-tn lottery into this folder again"
SCORES = ("validation_accuracy", "test_accuracy", "early_test_accuracy", "final_test_accuracy", "remaining")


@dataclass(frozen=True)
class _Sheet:
    """The columns of one parquet file: text, numbers that every row has, and numbers that may be missing."""

    name: str
    texts: tuple[str, ...]
    keys: tuple[str, ...]
    values: tuple[str, ...]
    needed: bool = False


RUNS = _Sheet(
    "runs.parquet",
    ("method",),
    ("level", "remaining", "trial", "repeat"),
    (
        *("kept", "early_iteration", "early_validation_loss", "early_test_accuracy"),
        *("final_test_accuracy", "final_train_loss", "iterations", "seconds"),
    ),
    needed=True,
)
CURVES = _Sheet(
    "curves.parquet",
    ("method",),
    ("level", "remaining", "trial", "repeat", "iteration"),
    ("train_loss", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy"),
    needed=True,
)
SAVINGS = _Sheet(
    "savings.parquet",
    ("form",),
    ("level", "remaining", "batch"),
    ("disk_bytes", "memory_bytes", "flops", "seconds"),
)
FILES = _Sheet("files.parquet", ("file",), ("level", "remaining", "bytes"), ())
SHALLOW = _Sheet(
    "shallow.parquet",
    ("method", "training"),
    ("budget", "nodes", "parameters", "seed"),
    ("validation_accuracy", "test_accuracy", "test_risk", "flops", "seconds"),
)
OVERLAP = _Sheet(
    "overlap.parquet", ("measure", "group"), ("nodes", "seed"), ("value", "null_low", "null_high")
)


@dataclass(frozen=True, eq=False)
class LotteryFolder:
    """The results of one run of `qrt-tn lottery`.

    Attributes:
        path: the folder.
        manifest: settings, counts of weights, timings and versions, from manifest.json.
        runs: a row a trained network, by column; NaN where a number is missing.
        curves: a row an evaluation during training, likewise.
        savings: a row a measured form of a ticket; None where that was not run.
        files: a row a kind of file of a ticket, with its bytes; None where that was not run.
        shallow: a row a shallow network; None where that was not run.
        overlap: a row a measured overlap of directions; None where that was not run.
    """

    path: Path
    manifest: dict[str, Any]
    runs: Columns
    curves: Columns
    savings: Columns | None = None
    files: Columns | None = None
    shallow: Columns | None = None
    overlap: Columns | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        """How each network was trained."""
        recipe: dict[str, Any] = self.manifest["preset"]["recipe"]
        return recipe

    @property
    def kept_values(self) -> str:
        """Which values the weights of a ticket have when its training begins, in words."""
        rewind = self.manifest["preset"].get("rewind")
        if self.manifest.get("rewinding") == "rate":
            return "trained values, and only the learning rate goes back"
        return f"values of iteration {rewind:,}" if rewind else "initial values"

    @property
    def architecture(self) -> str:
        """Which network was pruned."""
        return str(self.manifest["preset"]["architecture"])

    @property
    def trials(self) -> int:
        """How many seeds were run."""
        return len(np.unique(self.runs["trial"]))

    def methods(self) -> list[str]:
        """The methods that were run, in the order of the file."""
        return list(dict.fromkeys(self.runs["method"].tolist()))

    def points(self, method: str, column: str) -> Points:
        """A column of the runs of a method at each of its levels; empty where there are none.

        The ticket of level 0 is the dense network, so it is taken from there where it has no rows itself.
        """
        found = points(self.runs, method, column)
        if method == "imp" and found and 0 not in found:
            found = points(self.runs, "dense", column) | found
        return found

    def level_near(self, share: float, within: float = np.inf) -> int | None:
        """The level of the tickets whose share of weights is nearest in ratio, if no further than `within`.

        Args:
            share: share of prunable weights, above 0.
            within: largest ratio of the two shares.
        """
        chosen = (self.runs["method"] == "imp") & (self.runs["level"] > 0)
        if not chosen.any():
            return None
        ratios = np.abs(np.log(self.runs["remaining"][chosen] / share))
        nearest = int(np.argmin(ratios))
        return int(self.runs["level"][chosen][nearest]) if ratios[nearest] <= np.log(within) else None

    def share(self, level: int) -> float:
        """Share of the prunable weights that tickets of a level keep; the dense network's is 1."""
        chosen = (self.runs["method"] == "imp") & (self.runs["level"] == level)
        return float(self.runs["remaining"][chosen].mean()) if chosen.any() else 1.0


def load(folder: str | Path) -> LotteryFolder:
    """Read a folder that `qrt-tn lottery` wrote.

    Raises:
        ValueError: no such folder, or a missing, torn or malformed file in it; the file is named.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"no folder {path}; give the output folder of qrt-tn lottery")
    manifest = _manifest(path / "manifest.json")
    runs, curves, savings, files, shallow, overlap = (
        _columns(path / sheet.name, sheet) for sheet in (RUNS, CURVES, SAVINGS, FILES, SHALLOW, OVERLAP)
    )
    assert runs is not None
    assert curves is not None
    if not len(runs["method"]):
        raise ValueError(f"{path / RUNS.name} holds no rows; {AGAIN}")
    return LotteryFolder(path, manifest, runs, curves, savings, files, shallow, overlap)


def _manifest(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path, AGAIN)
    _check(path, manifest, {"title": str, "command": str, "preset": dict, "dataset": dict})
    _check(path, manifest["preset"], {"name": str, "architecture": str, "recipe": dict})
    _check(path, manifest["preset"]["recipe"], {"iterations": int})
    _check(path, manifest["dataset"], {"name": str})
    counts: dict[str, Any] = dict.fromkeys(("train", "validation", "test", "outputs"), int)
    _check(path, manifest["dataset"], counts, optional=True)
    places: dict[str, Any] = dict.fromkeys(("weights", "timings", "versions", "machine"), dict)
    _check(
        path,
        manifest,
        places | {"layers": list, "notes": list, "rewinding": str, "seconds": int | float},
        optional=True,
    )
    _check(path, manifest.get("weights") or {}, {"all": int, "prunable": int}, optional=True)
    numbers: dict[str, Any] = dict.fromkeys(("rate", "conv_rate", "output_rate"), int | float)
    numbers |= dict.fromkeys(("rewind", "levels", "trials", "reinitialisations", "validation"), int)
    _check(path, manifest["preset"], numbers, optional=True)
    numbers = dict.fromkeys(("learning_rate", "momentum", "weight_decay"), int | float)
    numbers |= dict.fromkeys(("warmup", "batch_size", "evaluate_every"), int) | {"drops": list}
    _check(path, manifest["preset"]["recipe"], numbers, optional=True)
    for stage in manifest.get("timings") or {}:
        _check(path, manifest["timings"], {stage: int | float})
    for entry in manifest.get("layers") or []:
        if not isinstance(entry, dict):
            raise ValueError(f"{path} has {entry!r:.60} among its layers; each must be an object; {AGAIN}")
        _check(path, entry, {"level": int, "kept": dict})
        _check(path, entry["kept"], dict.fromkeys(entry["kept"], int))
    return manifest


def _check(path: Path, entries: dict[str, Any], kinds: dict[str, Any], *, optional: bool = False) -> None:
    for key, kind in kinds.items():
        if optional and entries.get(key) is None:
            continue
        if not isinstance(entries.get(key), kind) or isinstance(entries[key], bool):
            got = f"{entries[key]!r:.60}" if key in entries else "no entry"
            wanted = getattr(kind, "__name__", "number") if isinstance(kind, type) else "number"
            raise ValueError(f"{path} has {got} for {key!r}, which must be a {wanted}; {AGAIN}")


def _columns(path: Path, sheet: _Sheet) -> Columns | None:
    if not path.is_file():
        if sheet.needed:
            raise ValueError(f"no file {path}; {AGAIN}")
        return None
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a whole parquet file ({first_line}); {AGAIN}") from error
    wanted = (*sheet.texts, *sheet.keys, *sheet.values)
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; {AGAIN}")
    columns = {name: _text(path, name, table[name]) for name in sheet.texts}
    columns |= {name: _numbers(path, name, table[name]) for name in (*sheet.keys, *sheet.values)}
    for name in sheet.keys:
        if not np.isfinite(columns[name]).all():
            raise ValueError(f"{path} has an empty entry in the column {name!r}; every row needs one")
    for name in SCORES:
        values = columns.get(name, np.zeros(0))
        bad = values[(values < 0) | (values > 1)]
        if len(bad):
            raise ValueError(f"{path} has {bad[0]:g} in the column {name!r}; give shares from 0 to 1")
    for name in ("remaining", "budget", "nodes", "parameters"):
        values = columns.get(name, np.ones(1))
        if (values <= 0).any():
            bad_value = values[values <= 0][0]
            raise ValueError(f"{path} has {bad_value:g} in the column {name!r}; it must be above 0")
    return columns


def _text(path: Path, name: str, column: Any) -> np.ndarray:
    if column.null_count:
        raise ValueError(f"{path} has an empty entry in the column {name!r}; every row needs one")
    if not all(isinstance(value, str) for value in pyarrow.compute.unique(column).to_pylist()):
        raise ValueError(f"{path} has numbers in the column {name!r}; it must hold text")
    return np.asarray(column.to_pylist(), dtype=object)


def _numbers(path: Path, name: str, column: Any) -> np.ndarray:
    try:
        # by way of Arrow, since curves have a million rows
        numbers = column.cast(pyarrow.float64()).to_numpy(zero_copy_only=False)
    except (pyarrow.ArrowException, TypeError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(
            f"{path} has text in the column {name!r} ({first_line}); it must hold numbers"
        ) from error
    return np.array(numbers, dtype=np.float64)
