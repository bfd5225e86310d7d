import errno
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrt_tn.studies.experiments.catalogue import (
    Context,
    Experiment,
    Metric,
    Settings,
    Table,
    UnavailableError,
    experiment,
    names,
    one_row,
)
from qrt_tn.studies.experiments.rehearsal.run import rehearse
from qrt_tn.studies.experiments.rehearsal.settings import Rehearsal
from qrt_tn.studies.runner import measure as room
from qrt_tn.studies.runner.task import FULL_DISK, Task, earlier_attempts

TABLES = one_row({"value": Metric("value"), "time": Metric("time", "s", measured=True)})
KEYED = {
    "pruned": Table(("by", "left"), {"score": Metric("score")}),
    "whole": Table((), {"size": Metric("size")}),
}


class Comm:
    """One of two ranks that both say the same."""

    def Get_rank(self) -> int:
        return 0

    def gather(self, one: object) -> list[object]:
        return [one, one]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "work" / "kept").mkdir(parents=True)
    folder, log = str(tmp_path / "work"), str(tmp_path / "log")
    return Task(
        experiment="rehearsal",
        parameters={"seconds": 0.0, "number": 5},
        seed=3,
        folder=folder,
        log=log,
        attempt=1,
        ranks=1,
        cores=(),
        gpus=(),
    )


def measured(
    monkeypatch: pytest.MonkeyPatch,
    task: Task,
    function: Callable[..., Any],
    comm: Any = None,
    tables: Mapping[str, Table] = TABLES,
) -> dict[str, Any]:
    """The outcome of a task whose experiment is `function`."""

    class Made(Experiment):
        def load(self) -> Callable[..., Any]:
            return function

    kind = Made("rehearsal", "for a test", Rehearsal, "nowhere:nothing", tables)
    monkeypatch.setattr(room, "experiment", lambda name: kind)
    room.measure(task, comm)
    outcome = task.outcome()
    assert outcome is not None
    return outcome


def raiser(error: BaseException) -> Callable[..., Any]:
    def function(*_: object) -> Any:
        raise error

    return function


def test_what_a_point_gives_is_kept_as_rows_of_tables(monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    outcome = measured(monkeypatch, task, lambda *_: {"value": 0.1 + 0.2, "time": None})
    assert outcome["tables"] == {"points": [{"value": 0.1 + 0.2, "time": None}]}
    assert outcome["peak_bytes"] >= outcome["baseline_bytes"] > 2**20
    assert outcome["device"].keys() == {"processor", "cores", "memory_gib", "gpu"}
    rows = [{"by": by, "left": np.int64(left), "score": np.float32(0.5)} for by in "ab" for left in (1, 2)]
    found = {"pruned": rows, "whole": [{"size": 7}]}
    outcome = measured(monkeypatch, task, lambda *_: found, tables=KEYED)
    assert outcome["tables"] == found


def test_an_experiment_gets_its_settings_seed_and_context(
    monkeypatch: pytest.MonkeyPatch, task: Task
) -> None:
    given: list[Any] = []

    def function(*arguments: Any) -> dict[str, Any]:
        given.extend(arguments)
        return {"value": 1, "time": 0.0}

    measured(monkeypatch, task, function)
    settings, seed, context = given
    assert settings == Rehearsal(seconds=0.0, number=5)
    assert seed == 3
    assert (context.folder, context.cores, context.gpus, context.comm) == (
        task.kept,
        len(os.sched_getaffinity(0)),
        0,
        None,
    )


def test_numbers_of_numpy_are_numbers(monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    outcome = measured(
        monkeypatch, task, lambda *_: {"value": np.float64(0.1), "time": np.array(3, dtype=np.int32)}
    )
    assert json.dumps(outcome["tables"]) == '{"points": [{"value": 0.1, "time": 3}]}'


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"value": 1.0}, "the metric time is missing"),
        ({}, "the metric value is missing"),
        ({"value": 1.0, "time": 1.0, "other": 1.0}, "the metric other is unknown"),
        ({"value": math.nan, "time": 1.0}, "the metric value is nan"),
        ({"value": 1.0, "time": -math.inf}, "the metric time is -inf"),
        ({"value": np.float32("nan"), "time": 1.0}, "the metric value is nan"),
        ({"value": True, "time": 1.0}, "the metric value is True"),
        ({"value": np.bool_(True), "time": 1.0}, "the metric value is True"),
        ({"value": "1.0", "time": 1.0}, "the metric value is '1.0'"),
        ({"value": 1j, "time": 1.0}, "the metric value is 1j"),
    ],
)
def test_metrics_that_are_no_numbers_are_failures(
    monkeypatch: pytest.MonkeyPatch, task: Task, found: dict[str, Any], said: str
) -> None:
    outcome = measured(monkeypatch, task, lambda *_: found)
    assert (outcome["kind"], outcome["reason"]) == ("metrics", said)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"pruned": []}, "the table whole is missing"),
        ({"pruned": [], "whole": [], "more": []}, "the table more is unknown"),
        ({"score": 1.0}, "the table pruned is missing"),
        ({"pruned": [{"by": "a", "score": 1.0}], "whole": []}, "the metric of pruned left is missing"),
        ({"pruned": [{"by": [1], "left": 1, "score": 1.0}], "whole": []}, "the key by is [1]"),
        (
            {"pruned": 2 * [{"by": "a", "left": 1, "score": 1.0}], "whole": []},
            "two rows of pruned are of {'by': 'a', 'left': 1}",
        ),
        ({"pruned": [], "whole": 2 * [{"size": 1}]}, "two rows of whole are of {}"),
    ],
)
def test_rows_that_are_not_of_their_table_are_failures(
    monkeypatch: pytest.MonkeyPatch, task: Task, found: dict[str, Any], said: str
) -> None:
    outcome = measured(monkeypatch, task, lambda *_: found, tables=KEYED)
    assert (outcome["kind"], outcome["reason"]) == ("metrics", said)


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (RuntimeError("two\n lines"), "error", "RuntimeError: two lines"),
        (UnavailableError("no GPU; get one"), "unavailable", "no GPU; get one"),
        (MemoryError("all of it"), "error", "out of memory: MemoryError: all of it"),
        (OSError(errno.EIO, "broken"), "error", "OSError: [Errno 5] broken"),
        (KeyError("name"), "error", "KeyError: 'name'"),
    ],
)
def test_errors_become_failures_of_one_line(
    monkeypatch: pytest.MonkeyPatch, task: Task, error: Exception, kind: str, reason: str
) -> None:
    outcome = measured(monkeypatch, task, raiser(error))
    assert (outcome["kind"], outcome["reason"]) == (kind, reason)
    trace = outcome["traceback"]
    assert trace is None if kind == "unavailable" else "in function" in trace


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_failure_of_the_point(
    monkeypatch: pytest.MonkeyPatch, task: Task, number: int
) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(room, "_leave", leave)
    with pytest.raises(SystemExit) as left:
        measured(monkeypatch, task, raiser(OSError(number, "full")))
    assert left.value.code == FULL_DISK
    assert task.outcome() is None


def test_every_rank_of_two_nodes_has_its_gpu(monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    # two nodes of one GPU and two cores each: the task names those of this node
    seen: list[Context] = []

    def function(settings: object, seed: int, context: Context) -> dict[str, Any]:
        seen.append(context)
        return {"value": 1.0, "time": 0.0}

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    two = task.model_copy(update={"ranks": 2, "gpus": ("0",), "cores": (0, 1)})
    measured(monkeypatch, two, function, Comm())
    assert seen[0].gpus == 1


def test_a_task_is_read_as_it_was_written(task: Task) -> None:
    point = Path(task.folder).parent
    assert earlier_attempts(point) == 0
    assert Task.load(task.save()) == task
    assert earlier_attempts(point) == 1
    (Path(task.folder) / "task.json").write_text("{", encoding="utf-8")
    assert earlier_attempts(point) == 0
    assert task.outcome() is None
    (Path(task.folder) / "outcome.json").write_text('{"metr', encoding="utf-8")
    assert task.outcome() is None


# the rehearsal itself, and the catalogue


def test_a_rehearsal_goes_on_at_the_step_it_had_reached(tmp_path: Path) -> None:
    said: list[str] = []
    settings = Rehearsal(seconds=0.0, steps=4, number=2)
    whole = rehearse(settings, 1, Context(tmp_path, say=said.append))
    assert (whole["resumed"], len(said)) == (0, 4)
    (tmp_path / "step").write_text("3", encoding="utf-8")
    rest = rehearse(settings, 1, Context(tmp_path, say=said.append))
    assert (rest["resumed"], len(said)) == (3, 5)
    assert rest["value"] == whole["value"]
    assert 0 <= float(whole["value"] or 0) < 1
    assert rehearse(settings, 2, Context(tmp_path))["value"] != whole["value"]


def test_a_rehearsal_tells_what_its_experiment_names(tmp_path: Path) -> None:
    found = rehearse(Rehearsal(seconds=0.0), 0, Context(tmp_path))
    assert found.keys() == experiment("rehearsal").metrics.keys()


def test_experiments_are_found_by_name() -> None:
    assert "rehearsal" in names()
    assert experiment("rehearsal").name == "rehearsal"
    assert experiment("rehearsal").load() is rehearse
    with pytest.raises(ValueError, match="unknown experiment 'reharsal'; did you mean 'rehearsal'"):
        experiment("reharsal")


@pytest.mark.parametrize("name", names())
def test_every_experiment_says_what_it_is(name: str) -> None:
    kind = experiment(name)
    assert kind.name == name
    assert issubclass(kind.settings, Settings)
    assert kind.summary
    keys = {key for table in kind.tables.values() for key in table.keys}
    assert kind.labels.keys() <= kind.settings.model_fields.keys() | keys
    # a name is a parameter, a key or a metric, the same in all tables: figures ask for each
    assert not keys & kind.settings.model_fields.keys()
    assert not kind.metrics.keys() & (kind.settings.model_fields.keys() | keys)
    for table in kind.tables.values():
        assert table.metrics
        assert all(kind.metrics[name] == metric for name, metric in table.metrics.items())
