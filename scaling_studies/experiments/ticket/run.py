"""The main job from data to a folder: methods compared over seeds, a fitted model, a report."""

import datetime
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine.backends import namespace, resolve
from qrt_tn.engine.files import save_tensors
from qrt_tn.models import Dataset, load_digits, load_file
from qrt_tn.models.saved import SUBFOLDER
from qrt_tn.studies import folders, provenance, report
from qrt_tn.studies.experiments.ticket import costs
from qrt_tn.studies.experiments.ticket.final import final_model, model_card
from qrt_tn.studies.experiments.ticket.methods import ESTIMATED, TOLERANCE, Fit, Task, seed_tasks
from qrt_tn.studies.experiments.ticket.problems import make_problem
from qrt_tn.studies.experiments.ticket.settings import EPOCHS, METHODS, TICKET, Ticket
from qrt_tn.studies.experiments.ticket.showcase import showcase
from qrt_tn.studies.experiments.ticket.training import Start, dense_start, ticket_start, train_together
from qrt_tn.studies.experiments.tickets.data import Problem
from qrt_tn.studies.parallel import side_by_side
from qrt_tn.studies.progress import StageTimer
from qrt_tn.studies.report.comparison import summary
from qrt_tn.studies.report.state_panels import leading_schmidt_values

Row = dict[str, Any]


def run_ticket(settings: Ticket, out: Path, command: str, timer: StageTimer) -> dict[str, Any]:
    """Run the main job and write its folder: model, metrics, figures and report.

    Args:
        settings: what to run.
        out: the folder, which must not exist or be empty.
        command: the command line that repeats it, for the report.
        timer: shows the stages and keeps their times.

    Returns:
        What was found, as `report.comparison.summary` has it.

    Raises:
        ValueError: data that cannot be read or used, or a folder in use; nothing is written then.
    """
    started = time.perf_counter()
    namespace(settings.backend)  # refuses what is not here
    dataset = _load(settings, command)
    timer.say(dataset.describe())
    for seed in range(settings.seeds):
        problem = make_problem(dataset, seed)  # refuses splits that cannot be scored
    with folders.whole_folder(out) as folder:
        settings, left_out = _plan(settings, problem, timer)
        fits, rows = _fitted(dataset, problem, settings, timer)
        if settings.epochs:
            rows += _trained(dataset, fits, settings, timer)
        with timer.stage("Fitting the model to all points", 1) as stage:
            model, about = final_model(dataset, [fit for _, fit in fits], folder / SUBFOLDER)
            stage.advance()
        with timer.stage("Describing states and nodes", 2) as stage:
            shown = showcase(model, fits)
            stage.advance()
            manifest = _manifest(dataset, problem, fits, settings, command)
            stage.advance()
        save_tensors(folder / "showcase.safetensors", shown, {"format": "qrt-tn.showcase"})
        folders.write_table(folder / "metrics.parquet", sorted(rows, key=_order))
        manifest |= {"model": about, "left_out": left_out, "timings": dict(timer.seconds)}
        folders.write_json(folder / "manifest.json", manifest | {"seconds": time.perf_counter() - started})
        with timer.stage("Report", 1) as stage:
            report.write(folder)
            found = summary(report.load(folder)) | {"model": about}
            stage.advance()
        folders.write_json(folder / "summary.json", found)
        card = model_card(dataset, model, found, out.name, command)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return found


def _load(settings: Ticket, command: str) -> Dataset:
    if settings.data is None:
        return load_digits()
    return load_file(
        settings.data,
        settings.target,
        task=settings.task,
        header=settings.header,
        drop=settings.drop,
        encode=settings.encode,
        impute=settings.impute,
        command=command,
    )


def _plan(settings: Ticket, problem: Problem, timer: StageTimer) -> tuple[Ticket, list[dict[str, str]]]:
    """The settings with methods and epochs in place, and what is left out; says how long it will take."""
    size = (*_size(problem), settings.nodes)
    epochs = EPOCHS if settings.epochs is None else settings.epochs
    methods, slow = settings.methods, list[tuple[str, float]]()
    if methods is None:
        methods, slow = costs.usual_methods(*size, epochs)
        if settings.epochs and "dense" not in methods:  # asked for
            methods, slow = (*methods, "dense"), [one for one in slow if one[0] != "dense"]
    training = costs.predicted_seconds("dense", *size, epochs)
    if settings.epochs is None and "dense" not in methods and training > costs.MOST_SECONDS:
        epochs, slow = 0, [*(one for one in slow if one[0] != "dense"), ("training", training)]
    left_out = []
    for method, seconds in slow:
        option = f"--epochs {EPOCHS} does" if method == "training" else "--methods runs"
        left_out.append(
            {"method": method, "why": f"about {_minutes(seconds)} a seed; {option} it all the same"}
        )
        timer.say(f"left out: {method} ({left_out[-1]['why']})")
    total = settings.seeds * sum(costs.predicted_seconds(method, *size, epochs) for method in methods)
    total += settings.seeds * costs.predicted_seconds("dense", *size, epochs)
    cores = len(os.sched_getaffinity(0))
    total = total / cores + costs.START_SECONDS
    if epochs:
        total += costs.COMPILE_SECONDS * len(settings.nodes)
    seeds = "1 seed" if settings.seeds == 1 else f"{settings.seeds} seeds"
    timer.say(f"{len(methods)} methods, {seeds}: {_minutes(total)} on {cores} cores, roughly")
    return settings.model_copy(update={"methods": methods, "epochs": epochs}), left_out


def _size(problem: Problem) -> tuple[int, int, int]:
    """Points to learn from, features and outputs."""
    points = len(problem.train.x) + len(problem.validation.x)
    return points, problem.train.x.shape[1], problem.targets(problem.train).shape[1]


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _fitted(
    dataset: Dataset, problem: Problem, settings: Ticket, timer: StageTimer
) -> tuple[list[tuple[int, Fit]], list[Row]]:
    """Every method at every count, by seed, and their rows of metrics."""
    size = _size(problem)
    bond = costs.largest_bond(*size[:2])
    tasks = [
        (seed, task)
        for seed in range(settings.seeds)
        for task in seed_tasks(settings.methods or (), settings, seed, bond)
    ]
    seconds = [
        sum(costs.predicted_seconds(method, *size, task.nodes, 0) for method in task.methods)
        for _, task in tasks
    ]
    # steps of about equal work, so that what is left of them tells what is left of the time
    parts = max(100, len(tasks))
    steps = [max(1, round(parts * one / max(sum(seconds), 1e-9))) for one in seconds]
    with timer.stage("Choosing settings, drawing nodes, fitting", sum(steps)) as stage:
        left = iter(steps)
        work = [partial(_scored, dataset, seed, task) for seed, task in tasks]
        found = side_by_side(work, lambda: stage.advance(next(left)))
    pairs = list(chain.from_iterable(found))
    return [(row["seed"], fit) for fit, row in pairs], [row for _, row in pairs]


def _scored(dataset: Dataset, seed: int, task: Task) -> list[tuple[Fit, Row]]:
    """What a task fits, scored; the seed's share of the data is made anew, so that few are held at once."""
    problem = make_problem(dataset, seed)
    fits = task.run(problem)
    return [(replace(fit, predict=None), _row(fit, problem, seed, "fitted")) for fit in fits]


def _trained(
    dataset: Dataset, fits: Sequence[tuple[int, Fit]], settings: Ticket, timer: StageTimer
) -> list[Row]:
    """Rows of tickets, and of dense networks, of which everything is trained."""
    tasks: list[Any] = []
    for n in reversed(settings.nodes):
        own = [(seed, fit) for seed, fit in fits if fit.method == TICKET and fit.nodes == n]
        tasks.append(partial(_train_tickets, dataset, own, settings))
        if "dense" in (settings.methods or ()):
            tasks.append(partial(_train_dense, dataset, n, settings))
    with timer.stage("Training all parameters", len(tasks)) as stage:
        return list(chain.from_iterable(side_by_side(tasks, stage.advance)))


def _train_tickets(dataset: Dataset, own: Sequence[tuple[int, Fit]], settings: Ticket) -> list[Row]:
    return _train(
        TICKET, [ticket_start(make_problem(dataset, seed), seed, fit) for seed, fit in own], settings
    )


def _train_dense(dataset: Dataset, nodes: int, settings: Ticket) -> list[Row]:
    starts = [dense_start(make_problem(dataset, seed), seed, nodes) for seed in range(settings.seeds)]
    return _train("dense", starts, settings)


def _train(method: str, starts: list[Start], settings: Ticket) -> list[Row]:
    fits = train_together(method, starts, settings.epochs or 0)
    return [_row(fit, start.problem, start.seed, "trained") for start, fit in zip(starts, fits, strict=True)]


def _row(fit: Fit, problem: Problem, seed: int, training: str) -> Row:
    """A row of metrics.parquet: scores on the test points."""
    assert fit.predict is not None
    predictions = fit.predict(problem.test.x)
    error = problem.loss(predictions, problem.test)
    rmse = None
    if problem.train.y.ndim == 1 and not problem.classes:  # several targets have no common unit
        rmse = float(np.sqrt(np.square(predictions - problem.test.y).mean()))
    outputs, dim = problem.targets(problem.train).shape[1], problem.train.x.shape[1]
    parameters = None
    if fit.nodes is not None:
        parameters = (fit.nodes + 1) * outputs + (fit.nodes * (dim + 1) if training == "trained" else 0)
    return {
        "method": fit.method,
        "training": training,
        "nodes": fit.nodes,
        "seed": seed,
        "score": 1 - error,
        "error": error,
        "rmse": rmse,
        "smoothing": fit.smoothing,
        "beta": fit.beta,
        "seconds": fit.seconds,
        "parameters": parameters,
    }


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    place = METHODS.index(row["method"]) if row["method"] in METHODS else len(METHODS)
    return row["training"], place, row["method"], row["nodes"] or 0, row["seed"]


def _manifest(
    dataset: Dataset, problem: Problem, fits: Sequence[tuple[int, Fit]], settings: Ticket, command: str
) -> dict[str, Any]:
    chance = None
    if dataset.classes is not None:
        chance = float(np.bincount(dataset.y).max() / len(dataset))
    estimators = {(fit.method, seed): fit.estimator for seed, fit in fits if fit.method in ESTIMATED}
    return {
        "title": f"{dataset.name}: hidden nodes drawn from the data, compared",
        "command": command,
        "config": settings.model_dump(mode="json"),
        "dataset": {
            "name": dataset.name,
            "description": dataset.describe(),
            "points": len(dataset),
            "dim": dataset.dim,
            "names": list(dataset.names),
            "target": dataset.target,
            "classes": None if dataset.classes is None else list(dataset.classes),
            "chance": chance,
            "image_shape": None if dataset.image_shape is None else list(dataset.image_shape),
            **{part: len(getattr(problem, part).x) for part in ("train", "validation", "test")},
        },
        "modulus": settings.modulus,
        "tolerance": TOLERANCE,
        "seeds": list(range(settings.seeds)),
        "chosen": [
            {
                "method": method,
                "seed": seed,
                "quantizer": own.quantizer_.kind,
                "levels": own.quantizer_.levels,
                "smoothing": own.smoothing_,
                "beta": own.beta_ if method == TICKET else None,
            }
            for (method, seed), own in estimators.items()
        ],
        "states": [
            _described(fit, seed) for seed, fit in fits if fit.method == "qrt" and fit.state is not None
        ],
        "versions": provenance.versions(),
        "machine": provenance.machine(resolve(settings.backend)),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": provenance.commit(),
    }


def _described(fit: Fit, seed: int) -> dict[str, Any]:
    """A state in numbers; the Schmidt values of the first alone: they take as long as compressing it."""
    state = fit.state
    assert state is not None
    told = {
        "seed": seed,
        "smoothing": fit.smoothing,
        "bond_dimensions": state.bond_dimensions,
        "truncation_error": state.truncation_error,
        "tolerance": state.tolerance,
        "site_dimension": max(len(support) for support in state.supports),
    }
    if seed > 0 or not state.bond_dimensions:
        return told
    values = state.schmidt_values()
    # the class site comes first, so bond D/2 has as many coordinates on either side
    half = values[min(state.dim // 2, len(values) - 1)]
    return told | {"schmidt_values": half.tolist(), "schmidt_spectra": leading_schmidt_values(values)}
