"""The main job: tickets drawn from the QRT of real data, against every other way to choose hidden nodes."""

import datetime
import time
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn import RidgeNodes, diagnose
from qrt_tn.engine.atomic import save_tensors
from qrt_tn.engine.backends import resolve
from qrt_tn.engine.scaled import Scaled
from qrt_tn.models import Dataset, RidgeNetwork, train_many
from qrt_tn.models.shallow import ShallowNetwork
from qrt_tn.studies import folders, provenance, report
from qrt_tn.studies.experiments import broad
from qrt_tn.studies.experiments.fitting import Scores, draws_at, fit, mean_scores, scores_by_draw
from qrt_tn.studies.experiments.folds import Fold, load_dataset, make_folds
from qrt_tn.studies.experiments.selection import Choice, choose
from qrt_tn.studies.experiments.showcase import showcase
from qrt_tn.studies.experiments.sources import Setting, Sources, inputs
from qrt_tn.studies.experiments.ticket_config import TicketConfig
from qrt_tn.studies.parallel import side_by_side
from qrt_tn.studies.progress import StageTimer
from qrt_tn.studies.report.state_panels import leading_schmidt_values

STREAM = 2
DIAGNOSED = 7
OTHERS = 6  # further draws of the same size, for the mean only
SHOWN_AT = 256  # the node count whose setting the report shows nodes and states of
LEARNING_RATES = (0.01, 0.03, 0.1)  # of which the validation points choose, for each network
Row = dict[str, Any]


def run_ticket(config: TicketConfig, command: str, timer: StageTimer) -> Path:
    """Run the main job and write its folder: nodes, weights, metrics, figures and report.

    Args:
        config: what to run.
        command: the command line that repeats it, for the report.
        timer: shows the stages and keeps their times.

    Returns:
        The path of report.html.

    Raises:
        ValueError: data that cannot be read or used; nothing is written then.
    """
    started = time.perf_counter()
    dataset = load_dataset(config.data, config.target)
    folds = make_folds(dataset, config)
    with folders.whole_folder(config.out) as folder:
        sources = Sources(folds, config)
        with timer.stage("Smoothed states", len(config.smoothings) * len(folds)) as stage:
            sources.build_states(config.smoothings, config.tolerance, stage.advance)
        tries = len(folds) * sum(len(sources.settings(m)) for m in config.methods if m != "dense")
        with timer.stage("Choosing settings on validation points", tries) as stage:
            choice = choose(sources, config.methods, config.nodes, stage.advance)
        rows: list[Row] = []
        runs = _networks(sources, choice, config, timer)
        with timer.stage("Fitting output weights", len(runs)) as stage:
            fits = [partial(_fit, run, sources, folder) for run in runs]
            rows += chain.from_iterable(side_by_side(fits, stage.advance))
        if config.epochs:
            groups = _groups(runs)
            with timer.stage("Training all parameters", len(groups)) as stage:
                trainings = [partial(_train, group, config, folder) for group in groups]
                rows += chain.from_iterable(side_by_side(trainings, stage.advance))
        if config.broad is not None:
            with timer.stage(f"States at the broad width {config.broad:g}", len(folds)) as stage:
                sources.build_states((config.broad,), config.broad_tolerance, stage.advance)
            with timer.stage("The transform against its filter", 2 * len(folds)) as stage:
                rows += broad.compare(sources, config.broad, stage.advance)
        tasks = [
            partial(_manifest, dataset, sources, choice, config, command),
            partial(showcase, sources, folds[0], choice.at("qrt-smoothed", SHOWN_AT)),
        ]
        with timer.stage("Describing states and nodes", len(tasks)) as stage:
            manifest, shown = side_by_side(tasks, stage.advance)
        for fold in folds:
            fold.quantizer.save(folder / f"quantizer-seed{fold.seed}.safetensors")
        folders.write_table(folder / "metrics.parquet", rows)
        save_tensors(folder / "showcase.safetensors", shown, {"format": "qrt-tn.showcase"})
        manifest |= {"timings": dict(timer.seconds), "seconds": time.perf_counter() - started}
        folders.write_json(folder / "manifest.json", manifest)
        with timer.stage("Report", 1) as stage:
            report.write(folder)
            stage.advance()
    return config.out / "report.html"


class _Run:
    """One network of one method, fold and node count, on its way through fitting and training."""

    def __init__(
        self,
        method: str,
        fold: Fold,
        setting: Setting,
        network: ShallowNetwork,
        nodes: RidgeNodes | None,
        seconds: float,
    ) -> None:
        self.method = method
        self.fold = fold
        self.setting = setting
        self.network = network
        self.nodes = nodes  # of a ticket
        self.points = inputs(network, fold)
        self.seconds = seconds  # spent on drawing the nodes

    def row(self, training: str, scores: Scores, seconds: float, parameters: int, draws: int = 1) -> Row:
        return {
            "method": self.method,
            "training": training,
            "nodes": self.network.nodes,
            "seed": self.fold.seed,
            "draws": draws,
            "activation": self.setting.activation,
            "smoothing": self.setting.smoothing,
            **scores,
            "seconds": seconds,
            "parameters": parameters,
        }

    def path(self, folder: Path, what: str) -> Path:
        return folder / f"{self.method}-{self.network.nodes}-seed{self.fold.seed}-{what}.safetensors"


def _networks(sources: Sources, choice: Choice, config: TicketConfig, timer: StageTimer) -> list[_Run]:
    """A network for every method, node count and fold."""
    wanted = [(m, n, fold) for n in reversed(config.nodes) for m in config.methods for fold in sources.folds]
    with timer.stage("Drawing nodes", len(wanted)) as stage:
        return side_by_side([partial(_drawn, sources, choice, *one) for one in wanted], stage.advance)


def _drawn(sources: Sources, choice: Choice, method: str, count: int, fold: Fold) -> _Run:
    start = time.perf_counter()
    setting = choice.at(method, count)
    nodes = None
    if method == "qrt-smoothed":
        nodes = sources.nodes(method, fold, setting, count, STREAM)  # kept: they are the ticket
        network: ShallowNetwork = sources.ridge_network(fold, setting, nodes, STREAM)
    else:
        network = sources.network(method, fold, setting, count, STREAM)
    return _Run(method, fold, setting, network, nodes, time.perf_counter() - start)


def _fit(run: _Run, sources: Sources, folder: Path) -> list[Row]:
    """Fit the output weights of a network with drawn nodes, and keep it if it is a ticket."""
    rows = []
    fold, network = run.fold, run.network
    if run.method == "qrt-smoothed":
        rows.append(_importance(run, sources, folder))
    if run.method != "dense":
        start = time.perf_counter()
        kernel, bias, scores = fit(fold, network.compute_features(run.points))
        network.set_output_weights(kernel, bias)
        seconds = run.seconds + time.perf_counter() - start
        found = [scores]
        if draws_at(network.nodes) > 1:
            count = network.nodes * (draws_at(network.nodes) - 1)
            others = sources.network(run.method, fold, run.setting, count, OTHERS)
            found += scores_by_draw(fold, others.compute_features(run.points), network.nodes)
        rows.append(run.row("fitted", mean_scores(found), seconds, kernel.size + bias.size, len(found)))
    if run.method == "qrt-smoothed":
        network.save(run.path(folder, "fitted"))
    return rows


def _importance(run: _Run, sources: Sources, folder: Path) -> Row:
    """The network straight from the amplitudes; saves its nodes, the ticket itself.

    A filter shrinks f beyond floating-point range, so the weights are taken relative to their largest,
    and one number, the scale of the outputs, is fitted to the training targets.
    """
    fold, network = run.fold, run.network
    nodes = run.nodes
    assert isinstance(network, RidgeNetwork)
    assert nodes is not None
    start = time.perf_counter()
    nodes.save(run.path(folder, "nodes"))
    transform = sources.transform(fold, run.setting)
    amplitudes = transform.amplitudes(nodes.a, nodes.b)
    # a weight is of size P^{-D/2} |R| / p
    largest = (amplitudes.log_abs().max(axis=1) - nodes.log_probability).max()
    relative = Scaled(
        amplitudes.mantissa, amplitudes.log_scale - largest + nodes.dim / 2 * np.log(nodes.modulus)
    )
    network.set_from_amplitudes(relative, nodes, transform.ridgelet)
    train = fold.split.train
    outputs, targets = network.predict(run.points).astype(np.float64), fold.state_targets
    scale = np.vdot(outputs[train], targets) / np.vdot(outputs[train], outputs[train])
    outputs = outputs * scale + fold.targets[train].mean(axis=0)
    return run.row("none", fold.scores(outputs), time.perf_counter() - start, 1) | {
        "method": "qrt-importance"
    }


def _groups(runs: list[_Run]) -> list[list[_Run]]:
    """Runs whose networks have one kind and shape, and so train with one compilation."""
    groups: dict[tuple[type, int], list[_Run]] = {}
    for run in runs:
        groups.setdefault((type(run.network), run.network.nodes), []).append(run)
    return list(groups.values())


def _train(group: list[_Run], config: TicketConfig, folder: Path) -> list[Row]:
    """Train all parameters, starting from the fitted output weights where there are any."""
    start = time.perf_counter()
    parts = [(run.points, run.fold.learned, run.fold.split) for run in group]
    train_many(
        [run.network for run in group],
        [points[split.train] for points, _, split in parts],
        [learned[split.train] for _, learned, split in parts],
        x_validation=[points[split.validation] for points, _, split in parts],
        y_validation=[learned[split.validation] for _, learned, split in parts],
        seeds=[run.fold.seed for run in group],
        epochs=config.epochs,
        learning_rate=LEARNING_RATES,
    )
    seconds = (time.perf_counter() - start) / len(group)
    rows = []
    for run in group:
        outputs = run.network.predict(run.points)
        rows.append(
            run.row("trained", run.fold.scores(outputs), run.seconds + seconds, run.network.parameter_count())
        )
        if run.method == "qrt-smoothed":
            run.network.save(run.path(folder, "trained"))
    return rows


def _manifest(
    dataset: Dataset, sources: Sources, choice: Choice, config: TicketConfig, command: str
) -> dict[str, Any]:
    folds = sources.folds
    split = folds[0].split
    chosen = choice.at("qrt-smoothed", SHOWN_AT)
    widths = [width for width in (chosen.smoothing, config.broad) if width is not None]
    return {
        "title": f"A winning ticket from {dataset.name}",
        "command": command,
        "config": config.plain(),
        "dataset": {
            "name": dataset.name,
            "points": len(dataset),
            "dim": folds[0].grid.shape[1],
            "classes": None if dataset.classes is None else list(dataset.classes),
            "image_shape": _image_shape(dataset, folds[0]),
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
        },
        "modulus": config.modulus,
        "levels": config.levels,
        "guard_band": folds[0].quantizer.guard_band,
        "activation": chosen.activation,
        "smoothing": chosen.smoothing,
        "shown_at": SHOWN_AT,
        "tolerance": config.tolerance,
        "seeds": [fold.seed for fold in folds],
        "node_counts": list(config.nodes),
        "selection": choice.tried,
        "chosen": [
            {"method": method, "nodes": count, **{k: v for k, v in vars(setting).items() if v is not None}}
            for method, settings in choice.settings.items()
            for count, setting in settings.items()
        ],
        "states": [_described(sources, fold, width) for width in widths for fold in folds],
        "diagnosis": _diagnosed(sources, folds[0], chosen),
        "broad": None
        if config.broad is None
        else {
            "smoothing": config.broad,
            "tolerance": config.broad_tolerance,
            "activation": broad.ACTIVATION,
            "draws": broad.DRAWS,
        },
        "versions": provenance.versions(),
        "machine": provenance.machine(resolve(config.backend)),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": provenance.commit(),
        "notes": [],
    }


def _image_shape(dataset: Dataset, fold: Fold) -> list[int] | None:
    """The pixels' extents, where the grid still has a coordinate for each pixel."""
    same = dataset.image_shape is not None and fold.quantizer.kind != "pca-quantile"
    return list(dataset.image_shape) if same and dataset.image_shape else None


def _diagnosed(sources: Sources, fold: Fold, setting: Setting) -> dict[str, Any]:
    """How the weights of the shown setting spread, beside uniform ones and its filter's."""
    seed = np.random.default_rng([fold.seed, DIAGNOSED])
    return asdict(diagnose(sources.transform(fold, setting), seed=seed, smoothing=setting.smoothing))


def _described(sources: Sources, fold: Fold, width: float) -> dict[str, Any]:
    state = sources.smoothed(fold, width)
    # the class site comes first, so bond D/2 has as many coordinates on either side
    half = state.schmidt_values()[state.dim // 2]
    return {
        "schmidt_spectra": leading_schmidt_values(state),
        "seed": fold.seed,
        "smoothing": width,
        "bond_dimensions": state.bond_dimensions,
        "truncation_error": state.truncation_error,
        "tolerance": state.tolerance,
        "site_dimension": max(len(support) for support in state.supports),
        "schmidt_values": half.tolist(),
    }
