"""Hidden nodes of shallow networks that need no pruning: from transforms, priors, and leverage scores."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from flax import nnx

from qrt_tn import QuantumRidgeletTransform, RidgeNodes, filter_nodes, states, uniform_nodes
from qrt_tn.models import DenseNetwork, RidgeNetwork, train_many
from qrt_tn.models.shallow import ShallowNetwork
from qrt_tn.models.tickets import leverage_scores, nodes_by_scores
from qrt_tn.studies.experiments.fitting import fit
from qrt_tn.studies.experiments.folds import Fold
from qrt_tn.studies.experiments.lottery.shallow_config import ShallowConfig
from qrt_tn.studies.experiments.lottery.shallow_costs import (
    drawing_flops,
    fitting_flops,
    leverage_flops,
    smoothing_flops,
    training_flops,
)
from qrt_tn.studies.parallel import side_by_side
from qrt_tn.studies.progress import Stage

TRANSFORMS = ("qrt-smoothed", "qrt-teacher", "qrt-ridge")
METHODS = (*TRANSFORMS, "uniform", "filter", "leverage")
STEPS = len(TRANSFORMS) + 2  # of making one fold's sources
# streams of one fold's seed: draws for one purpose tell nothing of those for another
NODES, POOL, CHOOSING, JITTER, REFERENCE, WIDE = range(10, 16)


@dataclass(frozen=True, eq=False)
class Cost:
    """What was spent: operations by formula, and measured seconds."""

    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.seconds + other.seconds)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Nodes of one method, fold and count, and what they cost."""

    method: str
    fold: Fold
    nodes: RidgeNodes
    cost: Cost


@dataclass(frozen=True, eq=False)
class _Built:
    transform: QuantumRidgeletTransform
    cost: Cost


@dataclass(frozen=True, eq=False)
class _Pool:
    nodes: RidgeNodes
    scores: list[np.ndarray]
    cost: Cost


class ShallowSources:
    """The states and pools of all folds, made side by side, and the nodes drawn from them and beside them.

    Args:
        folds: the data of each seed.
        config: the settings.
        stage: advanced by one for each teacher, state and pool: `len(folds) * STEPS` in all.
        methods: those that will be asked for; states, teachers and pools of others are not made.
    """

    def __init__(
        self, folds: list[Fold], config: ShallowConfig, stage: Stage, methods: tuple[str, ...] = METHODS
    ) -> None:
        self.folds = folds
        self.config = config
        self._labelled = self._taught(stage) if "qrt-teacher" in methods else {}
        wanted = [(method, fold) for method in TRANSFORMS if method in methods for fold in folds]
        built = side_by_side([partial(self._build, *one) for one in wanted], stage.advance)
        self._states = {(method, fold.seed): one for (method, fold), one in zip(wanted, built, strict=True)}
        pooled = folds if "leverage" in methods else []
        pools = side_by_side([partial(self._pool, fold) for fold in pooled], stage.advance)
        self._pools = {fold.seed: pool for fold, pool in zip(pooled, pools, strict=True)}

    def _taught(self, stage: Stage) -> dict[int, tuple[np.ndarray, np.ndarray, Cost]]:
        """By seed: the points that a teacher labels, its outputs there less their mean, and its cost.

        The teacher is a dense network trained on the training points, standardised on the grid. It labels
        the training points and a noisy copy of each.
        """
        start = time.perf_counter()
        config, folds = self.config, self.folds
        points, teachers = [], []
        for fold in folds:
            training = fold.grid[fold.split.train]
            # one spread for all coordinates, which share their levels: pixels that hardly vary stay small
            points.append((fold.grid - training.mean(axis=0)) / max(float(training.std()), 1e-12))
            rngs = nnx.Rngs(1000 * fold.seed + JITTER)
            teachers.append(DenseNetwork(fold.grid.shape[1], config.teacher_nodes, fold.outputs, rngs=rngs))
        train_networks(teachers, points, folds, config.epochs)
        seconds = (time.perf_counter() - start) / len(folds)
        found = {}
        for fold, network, scaled in zip(folds, teachers, points, strict=True):
            start = time.perf_counter()
            training = fold.grid[fold.split.train]
            labelled, inputs = training, scaled[fold.split.train]
            if config.jitter:
                rng = np.random.default_rng([fold.seed, JITTER])
                noisy = np.rint(training + config.jitter * rng.standard_normal(training.shape))
                noisy = np.clip(noisy, 0, config.levels - 1).astype(np.int64)
                shift = (noisy - training) / max(float(training.std()), 1e-12)
                labelled, inputs = np.concatenate([training, noisy]), np.concatenate([inputs, inputs + shift])
            outputs = network.predict(inputs).astype(np.float64)
            weights = config.teacher_nodes * (training.shape[1] + fold.outputs)
            flops = training_flops(weights, len(training), config.epochs) + 2.0 * weights * len(labelled)
            cost = Cost(flops, seconds + time.perf_counter() - start)
            found[fold.seed] = labelled, outputs - outputs.mean(axis=0), cost
            stage.advance()
        return found

    def _build(self, method: str, fold: Fold) -> _Built:
        """A smoothed state.

        "qrt-ridge" has the coefficients of ridge regression, p y / (p + lambda). Where no point repeats on
        the grid, p = 1/M everywhere, the state is proportional to the plain one, and its nodes follow the
        same distribution: what differs is chance.
        """
        config = self.config
        spent = Cost()
        x, y = fold.grid[fold.split.train], fold.state_targets
        if method == "qrt-teacher":
            x, y, spent = self._labelled[fold.seed]
        start = time.perf_counter()
        state = states.from_samples(
            x,
            y,
            config.modulus,
            smoothing=config.smoothing,
            ridge=config.ridge if method == "qrt-ridge" else 0.0,
            tolerance=config.tolerance,
            backend="auto" if config.backend in ("auto", "cuquantum") else config.backend,
        )
        transform = QuantumRidgeletTransform(state, config.ridgelet, config.backend)
        seconds = time.perf_counter() - start
        assert isinstance(state, states.MPSState)
        distinct = len(np.unique(x, axis=0))
        return _Built(transform, spent + Cost(smoothing_flops(distinct, fold.outputs, state), seconds))

    def transform(self, method: str, fold: Fold) -> QuantumRidgeletTransform:
        """The transform of one of `TRANSFORMS`."""
        return self._states[method, fold.seed].transform

    def draw(self, method: str, fold: Fold, count: int, stream: int = NODES) -> Drawn:
        """Draw nodes of one of `METHODS`; the cost includes what had to be built for them."""
        config, dim = self.config, fold.grid.shape[1]
        rng = np.random.default_rng([fold.seed, stream, METHODS.index(method), count])
        if method == "leverage":
            nodes, cost = self._by_leverage(fold, count, rng)
            return Drawn(method, fold, nodes, cost)
        start = time.perf_counter()
        cost = Cost()
        if method in TRANSFORMS:
            built = self._states[method, fold.seed]
            nodes = built.transform.sample(count, rng)
            assert isinstance(built.transform.state, states.MPSState)
            harmonics = int(np.count_nonzero(config.ridgelet.spectrum))
            cost = built.cost + Cost(drawing_flops(count, harmonics, built.transform.state))
        elif method == "uniform":
            nodes = uniform_nodes(count, dim, config.modulus, rng)
        else:
            nodes = filter_nodes(count, dim, config.ridgelet, config.smoothing, rng)
        return Drawn(method, fold, nodes, cost + Cost(seconds=time.perf_counter() - start))

    def _pool(self, fold: Fold) -> _Pool:
        """Candidates of one fold, and their leverage scores at each penalty."""
        config, dim = self.config, fold.grid.shape[1]
        start = time.perf_counter()
        rng = np.random.default_rng([fold.seed, POOL])
        nodes = filter_nodes(config.pool, dim, config.ridgelet, config.smoothing, rng)
        points = fold.grid[fold.split.train]
        features = ridge_network(nodes, fold, config, 0).compute_features(points).astype(np.float64)
        features -= features.mean(axis=0)  # the readout's bias is free
        scores = [leverage_scores(features, ridge) for ridge in config.leverage_ridges]
        flops = leverage_flops(len(points), dim, config.pool, len(scores))
        return _Pool(nodes, scores, Cost(flops, time.perf_counter() - start))

    def _by_leverage(self, fold: Fold, count: int, rng: np.random.Generator) -> tuple[RidgeNodes, Cost]:
        """Leverage nodes at the penalty whose nodes the validation points prefer, and what was spent.

        The nodes that choose it are not the ones that are returned.
        """
        pool = self._pools[fold.seed]
        start = time.perf_counter()
        choosing = np.random.default_rng([fold.seed, CHOOSING, count])
        risks = []
        for scores in pool.scores:
            nodes = nodes_by_scores(pool.nodes, scores, count, choosing)
            features = ridge_network(nodes, fold, self.config, 0).compute_features(fold.grid)
            risks.append(fit(fold, features)[2]["validation_risk"])
        best = pool.scores[int(np.argmin(np.asarray(risks, dtype=np.float64)))]
        nodes = nodes_by_scores(pool.nodes, best, count, rng)
        fitting = fitting_flops(len(fold.split.train), nodes.dim, count, fold.outputs)
        return nodes, pool.cost + Cost(len(risks) * fitting, time.perf_counter() - start)

    def reference(self, fold: Fold) -> RidgeNodes:
        """QRT nodes that have no part in any network, for overlaps to be measured against."""
        rng = np.random.default_rng([fold.seed, REFERENCE])
        return self._states["qrt-smoothed", fold.seed].transform.sample(self.config.reference, rng)

    def wide_nodes(self, fold: Fold) -> RidgeNodes:
        """The filter nodes of the over-wide network that is pruned."""
        config, rng = self.config, np.random.default_rng([fold.seed, WIDE])
        return filter_nodes(config.wide, fold.grid.shape[1], config.ridgelet, config.smoothing, rng)


def ridge_network(nodes: RidgeNodes, fold: Fold, config: ShallowConfig, stream: int) -> RidgeNetwork:
    """The network of drawn nodes, at initial output weights of their own."""
    return RidgeNetwork(nodes, config.ridgelet, fold.outputs, rngs=nnx.Rngs(1000 * fold.seed + stream))


def train_networks(
    networks: Sequence[ShallowNetwork], points: list[np.ndarray], folds: list[Fold], epochs: int
) -> None:
    """Train networks of one shape in place, each on its fold's training points, all settings alike.

    Args:
        networks: one for each fold in `folds`, which may name a fold many times.
        points: all points of the fold, as the network takes them.
        folds: the data.
        epochs: passes over the training points.
    """
    train_many(
        networks,
        [x[fold.split.train] for x, fold in zip(points, folds, strict=True)],
        [fold.learned[fold.split.train] for fold in folds],
        x_validation=[x[fold.split.validation] for x, fold in zip(points, folds, strict=True)],
        y_validation=[fold.learned[fold.split.validation] for fold in folds],
        seeds=[fold.seed for fold in folds],
        epochs=epochs,
    )
