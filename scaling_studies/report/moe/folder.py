"""What `qrt-tn moe study` leaves in its output folder, read back and checked before anything is drawn."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from qrt_tn.engine.arguments import is_real
from qrt_tn.studies.report.manifest import read_manifest

AGAIN = "run qrt-tn moe study into this folder again"
Row = dict[str, Any]

# What a column holds, and the test of a value. A "?" behind the kind allows an empty entry.
_KINDS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str) and bool(value),
    # part of the name of a figure's file
    "name": lambda value: isinstance(value, str) and re.fullmatch(r"[a-z0-9][a-z0-9-]*", value) is not None,
    "whole number from 0": lambda value: is_real(value) and value >= 0 and value == int(value),
    "whole number from 1": lambda value: is_real(value) and value >= 1 and value == int(value),
    "number": is_real,
    "number above 0": lambda value: is_real(value) and value > 0,
    "share from 0 to 1": lambda value: is_real(value) and 0 <= value <= 1,
    "correlation from -1 to 1": lambda value: is_real(value) and -1 <= value <= 1,
    "yes or no": lambda value: isinstance(value, bool),
}
_INDEX, _COUNT, _SHARE, _SIZE = (
    *("whole number from 0", "whole number from 1"),
    *("share from 0 to 1", "number above 0"),
)
_RATIOS = dict.fromkeys(("latency_low", "latency_high", "ratio", "ratio_low", "ratio_high"), f"{_SIZE}?")
_CORRELATED = {
    "init": "text",
    "measure": "text",
    **dict.fromkeys(("spearman", "low", "high"), "correlation from -1 to 1?"),
    "p_value": f"{_SHARE}?",
    **dict.fromkeys(("seeds", "experts"), _INDEX),
}

# The columns of each table that the page reads; others may stand beside them.
SHEETS: dict[str, dict[str, str]] = {
    "networks": {
        "router": "name",
        "seed": _INDEX,
        "pretrained_accuracy": f"{_SHARE}?",
        "accuracy": _SHARE,
        "parameters": _SIZE,
        "seconds": "number?",
    },
    "pruned": {
        "router": "name",
        "seed": _INDEX,
        "draw": _INDEX,
        "criterion": "text",
        "mode": "name",
        "pruned": _INDEX,
        "ratio": _SHARE,
        "parameters": _SIZE,
        "bytes": _SIZE,
        "accuracy": _SHARE,
        "finetuned_accuracy": f"{_SHARE}?",
    },
    "savings": {
        "router": "name",
        "mode": "name",
        "pruned": _INDEX,
        "parameters": _SIZE,
        "bytes": _SIZE,
        "flops": _SIZE,
        "latency_ms": _SIZE,
        **_RATIOS,
    },
    "theory_scaling": {
        "dim": _COUNT,
        "seed": _INDEX,
        **dict.fromkeys(("relevant_min", "others_max", "others_size", "others_moved"), "number"),
        "accuracy": _SHARE,
    },
    "theory_pruning": {
        "seed": _INDEX,
        "order": "text",
        "ratio": _SHARE,
        "fine_tune_steps": _INDEX,
        "accuracy": _SHARE,
    },
    "ridgelet_experts": {
        "init": "text",
        "seed": _INDEX,
        "expert": _INDEX,
        "measure": "text",
        "mass": "number?",
        "change": "number?",
    },
    "ridgelet_correlation": _CORRELATED,
    "ridgelet_controls": _CORRELATED,
    "ridgelet_accuracy": {
        "init": "text",
        "seed": _INDEX,
        "trained": "yes or no",
        "pruned_by": "text",
        "accuracy": _SHARE,
    },
}
NEEDED = ("networks", "pruned")
# Rows of one table that agree in all of these are the same measurement twice.
_KEYS = {
    "networks": ("router", "seed"),
    "pruned": ("router", "seed", "draw", "criterion", "mode", "pruned"),
    "ridgelet_correlation": ("init", "measure"),
    "ridgelet_controls": ("init", "measure"),
}
# Entries of the manifest that may be missing.
_PARTS: dict[str, tuple[type, str]] = dict.fromkeys(
    ("settings", "timings", "versions", "machine", "theory"), (dict, "an object")
)
_PARTS |= {"notes": (list, "a list"), "seconds": (Real, "a number")}


@dataclass(frozen=True, eq=False)
class MoeFolder:
    """The results of one run of `qrt-tn moe study`: tables as lists of rows, empty where they were not run.

    Numbers that a row lacks are None.

    Attributes:
        path: the folder.
        manifest: settings, data, timings and versions, from manifest.json.
        networks: a row a trained network.
        pruned: a row a pruned network.
        savings: a row a network whose cost was measured.
        theory_scaling: a row a dimension and seed of the theory's model.
        theory_pruning: a row a pruned model of the theory.
        ridgelet_experts: a row an expert and measure of ridgelet mass.
        ridgelet_correlation: a row an initialisation and measure.
        ridgelet_controls: likewise, of what is no mass.
        ridgelet_accuracy: a row a network of ridge experts, whole or pruned.
    """

    path: Path
    manifest: dict[str, Any]
    networks: list[Row]
    pruned: list[Row]
    savings: list[Row]
    theory_scaling: list[Row]
    theory_pruning: list[Row]
    ridgelet_experts: list[Row]
    ridgelet_correlation: list[Row]
    ridgelet_controls: list[Row]
    ridgelet_accuracy: list[Row]

    @property
    def routers(self) -> list[str]:
        """The router kinds, in the order of the file."""
        return list(dict.fromkeys(row["router"] for row in self.networks))

    @property
    def seeds(self) -> int:
        """How many seeds the router kind with most networks has."""
        return max(
            len({r["seed"] for r in self.networks if r["router"] == router}) for router in self.routers
        )

    def whole(self, router: str) -> dict[int, float]:
        """Accuracy of the unpruned networks of a router kind, by seed."""
        return {row["seed"]: row["accuracy"] for row in self.networks if row["router"] == router}

    def experts(self, router: str) -> int | None:
        """Experts of a layer of the unpruned networks, from how many were pruned and what share that is."""
        for row in self.pruned:
            if row["router"] == router and row["pruned"] and row["ratio"]:
                return round(row["pruned"] / row["ratio"])
        return None


def load(folder: str | Path) -> MoeFolder:
    """Read a folder that `qrt-tn moe study` wrote.

    Raises:
        ValueError: no such folder, or a missing, torn or malformed file in it; the file is named.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"no folder {path}; give the output folder of qrt-tn moe study")
    manifest = _manifest(path / "manifest.json")
    results = MoeFolder(path, manifest, **{name: _rows(path / f"{name}.parquet", name) for name in SHEETS})
    trained = {(row["router"], row["seed"]) for row in results.networks}
    for row in results.pruned:
        if (row["router"], row["seed"]) not in trained:
            raise ValueError(
                f"{path / 'pruned.parquet'} has router {row['router']!r} with seed {row['seed']}, which "
                f"networks.parquet lacks; {AGAIN}"
            )
    return results


def _manifest(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path, AGAIN)
    for key in ("title", "command"):
        if not isinstance(manifest.get(key), str):
            got = f"{manifest[key]!r:.60}" if key in manifest else "no entry"
            raise ValueError(f"{path} has {got} for {key!r}, which must be text; {AGAIN}")
    for key, (kind, wanted) in _PARTS.items():
        if manifest.get(key) is not None and not isinstance(manifest[key], kind):
            raise ValueError(f"{path} has {manifest[key]!r:.60} for {key!r}, which must be {wanted}; {AGAIN}")
    limits = (manifest.get("theory") or {}).get("limits") or {}
    checked = {"timings": manifest.get("timings") or {}, "the limits of its theory": limits}
    for where, entries in checked.items():
        for name, value in entries.items() if isinstance(entries, dict) else [(where, entries)]:
            if not is_real(value):
                raise ValueError(f"{path} has {value!r:.60} for {name!r} in {where}; it must be a number")
    return manifest


def _rows(path: Path, name: str) -> list[Row]:
    """The checked rows of a table; none where a table that may be missing is."""
    if not path.is_file():
        if name in NEEDED:
            raise ValueError(f"no file {path}; {AGAIN}")
        return []
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is not a whole parquet file ({str(error).splitlines()[0]}); {AGAIN}"
        ) from error
    if not table.num_rows:
        if name in NEEDED:
            raise ValueError(f"{path} holds no rows; {AGAIN}")
        return []
    lacking = [column for column in SHEETS[name] if column not in table.column_names]
    if lacking:
        raise ValueError(f"{path} lacks the columns {', '.join(lacking)}; {AGAIN}")
    rows: list[Row] = table.to_pylist()
    seen = set()
    for place, row in enumerate(rows):
        _check(path, place, row, SHEETS[name])
        key = tuple(row[column] for column in _KEYS.get(name, ()))
        if key and key in seen:
            said = ", ".join(f"{column} {row[column]!r}" for column in _KEYS[name])
            raise ValueError(f"{path} has two rows of {said}; {AGAIN}")
        seen.add(key)
    return rows


def _check(path: Path, place: int, row: Row, columns: dict[str, str]) -> None:
    for column, kind in columns.items():
        value, name = row[column], kind.removesuffix("?")
        if isinstance(value, float) and math.isnan(value):
            value = row[column] = None
        if not (kind.endswith("?") if value is None else _KINDS[name](value)):
            got = "an empty entry" if value is None else f"{value!r:.60}"
            raise ValueError(f"{path} has {got} in row {place} of the column {column!r}, a {name}; {AGAIN}")
        if value is not None and name.startswith("whole"):
            row[column] = int(value)
