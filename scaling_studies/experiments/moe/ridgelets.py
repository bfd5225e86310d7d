"""Mixtures of ridge experts drawn from the QRT: does their ridgelet mass tell which experts matter later?"""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from flax import nnx
from pydantic import Field

from qrt_tn import QuantumRidgeletTransform
from qrt_tn.models.moe.ridgelets.experts import RidgeExperts
from qrt_tn.models.moe.ridgelets.initial import INITIALISATIONS, InitialExperts, expert_nodes
from qrt_tn.models.moe.ridgelets.mass import log_mean_mass, mean_log_mass
from qrt_tn.models.moe.ridgelets.rank import RankCorrelation, rank_correlation
from qrt_tn.models.settings import settings
from qrt_tn.models.shallow_training import train_many
from qrt_tn.studies.experiments.fitting import fit
from qrt_tn.studies.experiments.folds import Fold, load_dataset, make_folds
from qrt_tn.studies.experiments.grid import GridConfig
from qrt_tn.studies.experiments.lottery.shallow_config import ShallowConfig
from qrt_tn.studies.experiments.settings import Count, EachOnce, one_of
from qrt_tn.studies.experiments.sources import Setting, Sources
from qrt_tn.studies.parallel import side_by_side
from qrt_tn.studies.progress import StageTimer

# The measure of mass that experts are pruned by: the one that the initialisation itself splits up, if any.
PRUNED_BY = {
    "uniform": "data",
    "filter": "smoothed",
    "transform": "smoothed",
    "clusters": "cluster-share",
    "classes": "class-share",
}
NODES, PRUNING, RANKS = 30, 31, 32  # streams of a seed
Row = dict[str, Any]
Tables = dict[str, list[Row]]


@settings
class RidgeletSettings:
    """Settings of `compare`.

    Of the few tried, this learning rate, with the cross entropy and fitted output weights to start from, had
    the best validation accuracy on the digits (mean over initialisations, 3 seeds); nothing was chosen by any
    correlation. Training the nodes too is more accurate still, but the mass is that of nodes as drawn.

    Raises:
        ValueError: any setting that could not work, by name.
    """

    data: Path | None = None
    """A npz, csv or parquet file with labels, or None for scikit-learn's digits."""
    initialisations: EachOnce[Annotated[str, one_of(INITIALISATIONS)]] = INITIALISATIONS
    experts: Annotated[int, Field(ge=2)] = 10
    """E; with as many as classes, "classes" gives each expert one."""
    nodes: Count = 16
    """m, hidden nodes of each expert."""
    selected: Count = 2
    """K, the experts of a point."""
    seeds: Count = 10
    """How many; each draws its own split, nodes, router and training order."""
    epochs: Count = 40
    """Passes over the data."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Of Adam's first step, in units of each parameter's own scale."""
    random_draws: Count = 50
    """Sets of experts drawn to prune at random."""
    resamples: Count = 5000
    """Of the bootstrap and of the permutations."""
    levels: int = 17
    """As in `GridConfig`, as are the next and the last two."""
    modulus: int = 127
    activation: str = "cosine"
    """Of all nodes."""
    smoothing: float = 0.6
    """The width w of the filter, of the states and of the nodes of "filter"."""
    tolerance: float = 0.05
    backend: str = "auto"

    def __post_init__(self) -> None:
        if self.selected > self.experts:
            raise ValueError(f"selected is {self.selected}, more than {self.experts} experts; select fewer")
        self.grid  # noqa: B018  (checks what makes the states)

    @property
    def pruned(self) -> int:
        """How many experts go: half of them, rounded down."""
        return self.experts // 2

    @cached_property
    def grid(self) -> GridConfig:
        """The settings that make folds and states."""
        return ShallowConfig(
            data=self.data,
            levels=self.levels,
            modulus=self.modulus,
            activation=self.activation,
            smoothing=self.smoothing,
            tolerance=self.tolerance,
            seeds=self.seeds,
            epochs=self.epochs,
            backend=self.backend,
        ).grid

    @classmethod
    def quick(cls, **changes: Any) -> Self:
        """Settings for a first look, of about 20 seconds on two cores; `changes` come on top."""
        return cls(**{"seeds": 4, "epochs": 20, "resamples": 2000, **changes})


def compare(settings: RidgeletSettings, timer: StageTimer) -> Tables:
    """Set the ridgelet mass of experts before training against the change of their routers after it.

    For each seed and initialisation, one `RidgeExperts` network: its output weights are fitted with the
    router at its small random start, then router and output weights are trained by Adam on the cross
    entropy, and the best validation epoch is kept. The change of an expert is ||w after|| - ||w before||, w
    its router column: signed, as in Chowdhury et al. (ICML 2024). That criterion keeps the experts of largest
    change; half of them are kept here. There are no losses that balance the experts.

    Measures of an expert's mass, all known before training; comparable between initialisations but for the
    shares, which exist where the initialisation splits the transform up:

    - "data": `log_mean_mass` in the transform of the training data's own state, without smoothing;
    - "smoothed": the same in that of the smoothed state, which nodes are drawn from;
    - "smoothed-typical": `mean_log_mass` in the latter;
    - "cluster-share": the share of the transform's draws that fall in the expert's cluster of directions;
    - "class-share": its classes' share of the smoothed state's ||f||^2.

    What to bear in mind. All seeds split one data set, so bands over seeds hold for its splits, not for other
    data. Under "classes" an expert has the same class in all seeds, so its permutation test and its bootstrap
    take experts in one order for all seeds. Some fifteen correlations are tested: p-values below 0.05 turn up
    among them by chance.

    Args:
        settings: the settings.
        timer: shows the stages and keeps their times.

    Returns:
        Rows by table:

        - "ridgelet_experts": init, seed, expert, measure, mass (None where it is 0, its log then -inf),
          change, kept (by change);
        - "ridgelet_correlation": init, measure, spearman, kendall (means over seeds of the correlations
          within seeds of mass with change), low, high (95 % band), p_value, seeds (in which it is
          defined), experts;
        - "ridgelet_seeds": init, measure, seed, spearman, kendall (None where all masses are equal);
        - "ridgelet_controls": as "ridgelet_correlation", for what is no mass: "load-before" and
          "load-after", the share of training points that choose the expert before and after training;
        - "ridgelet_accuracy": init, seed, trained, pruned_by, accuracy (of the test points). Experts are
          pruned by "none", "change", "mass" (the measure PRUNED_BY names) or "random" (mean over draws).

    Raises:
        ValueError: data without labels, or that cannot be read or used.
    """
    dataset = load_dataset(settings.data, None)
    if dataset.classes is None:
        raise ValueError(f"{dataset.name} has real targets; give data with labels, which experts can share")
    folds = make_folds(dataset, settings.grid)
    sources = Sources(folds, settings.grid)
    with timer.stage("States for the experts", len(folds)) as stage:
        sources.build_states((settings.smoothing,), settings.tolerance, stage.advance)
    wanted = [(name, fold) for fold in folds for name in settings.initialisations]
    with timer.stage("Drawing experts", len(wanted)) as stage:
        tasks = [partial(_Run, name, fold, sources, settings) for name, fold in wanted]
        runs = side_by_side(tasks, stage.advance)
    with timer.stage("Training mixtures of ridge experts", len(runs)) as stage:
        train_many(
            [run.network for run in runs],
            [run.fold.grid[run.fold.split.train] for run in runs],
            [run.fold.learned[run.fold.split.train] for run in runs],
            x_validation=[run.fold.grid[run.fold.split.validation] for run in runs],
            y_validation=[run.fold.learned[run.fold.split.validation] for run in runs],
            seeds=[run.fold.seed for run in runs],
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            loss="cross_entropy",
            progress=lambda done, total: stage.advance(),
        )
    tables: Tables = {"ridgelet_experts": [], "ridgelet_accuracy": []}
    with timer.stage("Pruning ridge experts", len(runs)) as stage:
        for run in runs:
            run.measure_change()
            tables["ridgelet_experts"] += run.expert_rows()
            tables["ridgelet_accuracy"] += run.accuracy_rows()
            stage.advance()
    return tables | _correlations(runs, settings)


class _Run:
    """One network: its experts before training, what it is trained from, and what became of it."""

    def __init__(self, name: str, fold: Fold, sources: Sources, settings: RidgeletSettings) -> None:
        self.name, self.fold, self.settings = name, fold, settings
        smoothed = sources.transform(fold, Setting(settings.activation, settings.smoothing))
        exact = sources.transform(fold, Setting(settings.activation))
        rng = np.random.default_rng([fold.seed, NODES, INITIALISATIONS.index(name)])
        drawn = expert_nodes(
            name, smoothed, settings.experts, settings.nodes, smoothing=settings.smoothing, seed=rng
        )
        self.masses = masses(name, drawn, smoothed, exact)
        seen = fold.grid[fold.split.train]
        self.network = RidgeExperts(
            drawn.nodes,
            smoothed.ridgelet,
            fold.outputs,
            selected=settings.selected,
            centre=seen.mean(axis=0),
            scale=float(seen.std()),
            rngs=nnx.Rngs(fold.seed),
        )
        kernel, bias, scores = fit(fold, self.network.compute_features(fold.grid))
        self.network.set_output_weights(kernel, bias)
        self.fitted = scores["test_accuracy"]
        self._before = self._router_norms()
        self.loads = {"load-before": self._load()}
        self.change = np.zeros(settings.experts)

    def measure_change(self) -> None:
        """Compare the trained router with the one before."""
        self.change = self._router_norms() - self._before
        self.loads["load-after"] = self._load()

    def expert_rows(self) -> list[Row]:
        """A row for each expert and measure."""
        kept = np.argsort(self.change, kind="stable")[self.settings.pruned :]
        return [
            {
                "init": self.name,
                "seed": self.fold.seed,
                "expert": expert,
                "measure": measure,
                "mass": float(value) if np.isfinite(value) else None,
                "change": float(self.change[expert]),
                "kept": bool(expert in kept),
            }
            for measure, values in self.masses.items()
            for expert, value in enumerate(values)
        ]

    def accuracy_rows(self) -> list[Row]:
        """Test accuracy before training, after it, and with half of the experts gone."""
        fold, count = self.fold, self.settings.pruned
        test = fold.split.test
        outputs = self.network.split(fold.grid[test])
        rng = np.random.default_rng([fold.seed, PRUNING])

        def accuracy(pruned: Sequence[int] | np.ndarray) -> float:
            found = outputs.without(pruned).argmax(axis=1)
            return float((found == fold.learned[test]).mean())

        def lowest(values: np.ndarray) -> np.ndarray:
            return np.argsort(values, kind="stable")[:count]

        drawn = [
            accuracy(rng.permutation(self.settings.experts)[:count])
            for _ in range(self.settings.random_draws)
        ]
        accuracies = {
            "none": accuracy([]),
            "change": accuracy(lowest(self.change)),
            "mass": accuracy(lowest(self.masses[PRUNED_BY[self.name]])),
            "random": float(np.mean(drawn)),
        }
        row = {"init": self.name, "seed": fold.seed}
        return [{**row, "trained": False, "pruned_by": "none", "accuracy": self.fitted}] + [
            {**row, "trained": True, "pruned_by": by, "accuracy": value} for by, value in accuracies.items()
        ]

    def _router_norms(self) -> np.ndarray:
        return np.linalg.norm(np.asarray(self.network.router[...], dtype=np.float64), axis=0)

    def _load(self) -> np.ndarray:
        gates = self.network.gates(self.fold.grid[self.fold.split.train])
        return np.asarray(gates > 0).mean(axis=0)


def masses(
    name: str,
    drawn: InitialExperts,
    smoothed: QuantumRidgeletTransform,
    exact: QuantumRidgeletTransform,
) -> dict[str, np.ndarray]:
    """The measures of mass that an initialisation's experts have, by name, each of shape (E,)."""
    found = {
        "data": log_mean_mass(exact, drawn.nodes),
        "smoothed": log_mean_mass(smoothed, drawn.nodes),
        "smoothed-typical": mean_log_mass(smoothed, drawn.nodes),
    }
    return found if drawn.share is None else {**found, PRUNED_BY[name]: drawn.share}


def _correlations(runs: list[_Run], settings: RidgeletSettings) -> Tables:
    """Mass, and loads, against change."""
    tables: Tables = {"ridgelet_correlation": [], "ridgelet_seeds": [], "ridgelet_controls": []}
    for name in settings.initialisations:
        own = [run for run in runs if run.name == name]
        correlate = partial(
            rank_correlation,
            y=[run.change for run in own],
            same_members=name == "classes",
            resamples=settings.resamples,
            seed=np.random.default_rng([RANKS, INITIALISATIONS.index(name)]),
        )
        for measure in own[0].masses:
            found = correlate([run.masses[measure] for run in own])
            tables["ridgelet_correlation"].append(_correlation_row(name, measure, found))
            tables["ridgelet_seeds"] += [
                {"init": name, "measure": measure, "seed": run.fold.seed, "spearman": rho, "kendall": tau}
                for run, (rho, tau) in zip(own, found.each, strict=True)
            ]
        for load in own[0].loads:
            row = _correlation_row(name, load, correlate([run.loads[load] for run in own]))
            tables["ridgelet_controls"].append(row)
    return tables


def _correlation_row(name: str, measure: str, found: RankCorrelation) -> Row:
    return {
        "init": name,
        "measure": measure,
        "spearman": found.spearman,
        "kendall": found.kendall,
        "low": found.low,
        "high": found.high,
        "p_value": found.p_value,
        "seeds": found.groups,
        "experts": found.members,
    }
