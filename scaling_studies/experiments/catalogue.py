"""Experiments that a study can run, and what each measures; light to import: it is read at every call.

An experiment is two rooms: settings, which import nothing heavy and are named in `_MODULES`, and the function
that measures one point, which is loaded only where points run.
"""

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Parameters of one point of an experiment: typed, checked, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class UnavailableError(Exception):
    """A point needs what this machine has not: a GPU, a library, a data set. The message names the mend."""


@dataclass(frozen=True)
class Metric:
    """What a figure of an experiment is.

    Attributes:
        label: for axes and tables, "test accuracy".
        unit: "s", "B", "flop/s", "%", or "" for a pure number.
        measured: whether it depends on machine and moment, as times and memory do. All other metrics are the
            same bits whenever the point runs again on the same machine and versions.
    """

    label: str
    unit: str = ""
    measured: bool = False


@dataclass(frozen=True)
class Table:
    """The columns of a table that points give rows of.

    Attributes:
        keys: columns that tell the rows of a point apart, such as the criterion that experts were pruned by;
            figures take them for parameters.
        metrics: the other columns, numbers or None.
    """

    keys: tuple[str, ...]
    metrics: Mapping[str, Metric]


Row = Mapping[str, Any]
POINTS = "points"  # the table of an experiment that gives one row a point


@dataclass(frozen=True)
class Experiment:
    """One kind of point.

    Attributes:
        name: as study files name it.
        summary: one line.
        settings: the class of its parameters.
        function: "module:function", which takes the settings, a seed and a `Context`, and returns rows by
            table, `{"pruned": [{"criterion": "random", "accuracy": 0.9}, ...]}`; an experiment of the one
            table "points" may return its one row.
        tables: what it returns; the first is shown where none is named. A metric means the same in each.
        revision: raised where results change their meaning; older results then count as missing.
        labels: of parameters and keys, for axes and tables, where the name alone does not say enough.
    """

    name: str
    summary: str
    settings: type[Settings]
    function: str
    tables: Mapping[str, Table]
    revision: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics of all tables."""
        return {name: metric for table in self.tables.values() for name, metric in table.metrics.items()}

    def table(self, name: str | None) -> Table:
        """A table by name; None is the first."""
        return self.tables[name or next(iter(self.tables))]

    def load(self) -> Callable[[Any, int, "Context"], Mapping[str, Any]]:
        """The function that measures one point."""
        module, _, name = self.function.partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return loaded


def one_row(metrics: Mapping[str, Metric]) -> Mapping[str, Table]:
    """The tables of an experiment that gives one row a point."""
    return {POINTS: Table((), metrics)}


@dataclass(frozen=True)
class Context:
    """What a point is given beside its parameters.

    Attributes:
        folder: of its own, kept while it is unfinished: what a point saves there it finds again after a kill.
        cores: how many cores it may use.
        gpus: how many GPUs it may use; they are the first that CUDA shows.
        comm: MPI's communicator where it runs on several ranks, else None. All ranks call the function; the
            answer of rank 0 counts.
        say: prints a line to the point's log.
    """

    folder: Path
    cores: int = 1
    gpus: int = 0
    comm: Any = None
    say: Callable[[str], None] = print


# Each module holds EXPERIMENT. Named here by module, so that only the one that a study names is imported.
_MODULES = {
    "rehearsal": "qrt_tn.studies.experiments.rehearsal.settings",
    "states": "qrt_tn.studies.experiments.growth.settings",
    "contraction": "qrt_tn.studies.experiments.contraction.settings",
    "risk": "qrt_tn.studies.experiments.risk.settings",
    "tickets": "qrt_tn.studies.experiments.tickets.settings",
    "planted": "qrt_tn.studies.experiments.planted.settings",
    "lottery": "qrt_tn.studies.experiments.lottery.settings",
    "moe": "qrt_tn.studies.experiments.moe.settings",
}


def names() -> tuple[str, ...]:
    """All experiments."""
    return tuple(_MODULES)


def experiment(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        ValueError: there is none; the nearest is named.
    """
    if name not in _MODULES:
        near = difflib.get_close_matches(name, _MODULES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(_MODULES)}"
        raise ValueError(f"unknown experiment {name!r}; {hint}")
    found = importlib.import_module(_MODULES[name]).EXPERIMENT
    assert isinstance(found, Experiment)
    return found
