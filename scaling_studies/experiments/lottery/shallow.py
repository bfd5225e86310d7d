"""The QRT against pruning on one set of axes: shallow networks of one data set and one budget of training."""

import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from qrt_tn.models import RidgeNetwork
from qrt_tn.studies.experiments.fitting import fit
from qrt_tn.studies.experiments.folds import Fold, load_dataset, make_folds
from qrt_tn.studies.experiments.lottery import shallow_sources
from qrt_tn.studies.experiments.lottery.shallow_config import ShallowConfig
from qrt_tn.studies.experiments.lottery.shallow_costs import fitting_flops, training_flops
from qrt_tn.studies.experiments.lottery.shallow_overlap import (
    frequencies,
    masked_columns,
    overlap_rows,
    random_rows,
)
from qrt_tn.studies.experiments.lottery.shallow_pruning import (
    Survivors,
    Trained,
    most_rounds,
    prune_nodes,
    prune_weights,
    targets,
)
from qrt_tn.studies.experiments.lottery.shallow_sources import (
    Cost,
    Drawn,
    ShallowSources,
    ridge_network,
    train_networks,
)
from qrt_tn.studies.parallel import side_by_side
from qrt_tn.studies.progress import StageTimer

METHODS = (*shallow_sources.METHODS, "imp-nodes", "imp-nodes-random", "imp-nodes-rewound", "imp-weights")
FITTED = 20  # the stream of output weights that are about to be fitted
SUBSETS = 21  # the stream of random subsets of the over-wide network
Row = dict[str, Any]

__all__ = ["METHODS", "ShallowConfig", "compare"]


def compare(config: ShallowConfig, timer: StageTimer) -> tuple[list[Row], list[Row]]:
    """Measure what hidden nodes of the QRT give against tickets found by pruning.

    Same data, same splits, and the same epochs of final training for all. The methods, at each node count:

    - "qrt-smoothed", "qrt-teacher", "qrt-ridge": nodes of the transform of the smoothed targets, of what a
      trained dense network makes of them, and of ridge regression's coefficients (proportional to the
      first where no point repeats on the grid, so that only chance sets the two apart);
    - "uniform", "filter": nodes of no data;
    - "leverage": nodes of the filter, drawn again in proportion to their ridge leverage scores;
    - "imp-nodes": nodes of an over-wide filter network that survive rounds of training and pruning by the
      norm of their output weights, as they were drawn; "imp-nodes-random": as many of them at random;
    - "imp-nodes-rewound": the same survivors trained from their initial output weights, which is the
      lottery ticket by the book, and at nodes = `wide` the over-wide network before any pruning;
    - "imp-weights": an over-wide dense ReLU network pruned weight by weight, trained from its rewound
      weights, at the first round that holds no more numbers than a ridge network of that many nodes.

    "fitted" rows have output weights by ridge regression; "trained" ones train all parameters, from there
    for all ridge nodes but "imp-nodes-rewound". So ridge methods differ by their nodes alone, while
    "imp-weights" and "imp-nodes-rewound" start from random output weights, as a lottery ticket does.

    Args:
        config: the settings.
        timer: shows the stages and keeps their times.

    Returns:
        Rows of method, training, budget (the node count compared at, or `wide`), nodes (alive),
        parameters (that a deployed network must hold), seed, scores (of the training, validation and test
        points), flops and seconds (all spent on this network; of networks trained in one group, the mean
        a network, compilation included). And rows of overlaps of surviving directions with QRT nodes, as
        `overlap_rows` gives them, of the groups "imp-nodes", "imp-weights", and "qrt-smoothed", which
        says what a second draw of the QRT itself would have.

    Raises:
        ValueError: data that cannot be read or used.
    """
    folds = make_folds(load_dataset(config.data, config.target), config.grid)
    with timer.stage("States, teachers and leverage scores", shallow_sources.STEPS * len(folds)) as stage:
        sources = ShallowSources(folds, config, stage)
    own = [sources.wide_nodes(fold) for fold in folds]
    wanted = [(m, f, n) for n in reversed(config.nodes) for m in shallow_sources.METHODS for f in folds]
    with timer.stage("Drawing hidden nodes", len(wanted)) as stage:
        drawn = side_by_side([partial(sources.draw, *one) for one in wanted], stage.advance)
    with timer.stage("Pruning", len(targets(config)) + most_rounds(folds[0], config) + 1) as stage:
        # each compiles shapes of its own, and they return different things
        prunings: list[Callable[[], Any]] = [
            partial(prune_nodes, own, folds, config, stage.advance),
            partial(prune_weights, folds, config, stage.advance),
        ]
        (rewound, tickets), (sparse, survivors) = side_by_side(prunings, lambda: None)
    drawn += [ticket for ticket, _ in tickets]
    drawn += [
        Drawn("imp-nodes-random", fold, nodes[_subset(fold, count, config)], Cost())
        for fold, nodes in zip(folds, own, strict=True)
        for count in config.nodes
    ]
    rows = [_trained_row("imp-nodes-rewound", one) for one in rewound]
    rows += [_trained_row("imp-weights", one) for one in sparse]
    with timer.stage("Fitting output weights", len(drawn)) as stage:
        runs = side_by_side([partial(_Run, one, config) for one in drawn], stage.advance)
    rows += [run.row("fitted") for run in runs]
    groups = [[run for run in runs if run.network.nodes == count] for count in reversed(config.nodes)]
    with timer.stage("Training all parameters", len(groups)) as stage:
        trainings = [partial(_train, group, config) for group in groups]
        rows += chain.from_iterable(side_by_side(trainings, stage.advance))
    tasks: list[Callable[[], list[Row]]] = [
        partial(_ticket_overlaps, sources, drawn, ticket, numbers) for ticket, numbers in tickets
    ]
    tasks += [partial(_weight_overlaps, sources, one) for one in survivors if _comparable(one)]
    with timer.stage("Overlaps of directions", len(tasks)) as stage:
        overlaps = list(chain.from_iterable(side_by_side(tasks, stage.advance)))
    return rows, overlaps


class _Run:
    """A ridge network of one method, fold and count: fitted when it is made, then trained."""

    def __init__(self, drawn: Drawn, config: ShallowConfig) -> None:
        start = time.perf_counter()
        fold = drawn.fold
        self.method = drawn.method
        self.fold = fold
        self.network: RidgeNetwork = ridge_network(drawn.nodes, fold, config, FITTED)
        kernel, bias, self.scores = fit(fold, self.network.compute_features(fold.grid))
        self.network.set_output_weights(kernel, bias)
        flops = fitting_flops(len(fold.split.train), self.network.dim, len(drawn.nodes), fold.outputs)
        self.cost = drawn.cost + Cost(flops, time.perf_counter() - start)

    def row(self, training: str) -> Row:
        """The row of the network as it is now."""
        count = self.network.nodes
        one = Trained(self.fold, count, count, self.network.parameter_count(), self.scores, self.cost)
        return _trained_row(self.method, one) | {"training": training}


def _trained_row(method: str, one: Trained) -> Row:
    return {
        "method": method,
        "training": "trained",
        "budget": one.budget,
        "nodes": one.nodes,
        "parameters": one.parameters,
        "seed": one.fold.seed,
        **one.scores,
        "flops": one.cost.flops,
        "seconds": one.cost.seconds,
    }


def _subset(fold: Fold, count: int, config: ShallowConfig) -> np.ndarray:
    rng = np.random.default_rng([fold.seed, SUBSETS, count])
    return np.sort(rng.choice(config.wide, count, replace=False))


def _train(group: list[_Run], config: ShallowConfig) -> list[Row]:
    """Train networks of one shape from their fitted output weights."""
    start = time.perf_counter()
    folds = [run.fold for run in group]
    train_networks([run.network for run in group], [fold.grid for fold in folds], folds, config.epochs)
    seconds = (time.perf_counter() - start) / len(group)
    rows = []
    for run in group:
        network, fold = run.network, run.fold
        weights = network.nodes * (network.dim + network.outputs)
        run.cost += Cost(training_flops(weights, len(fold.split.train), config.epochs), seconds)
        run.scores = fold.scores(network.predict(fold.grid))
        rows.append(run.row("trained"))
    return rows


def _ticket_overlaps(
    sources: ShallowSources, drawn: list[Drawn], ticket: Drawn, numbers: np.ndarray
) -> list[Row]:
    """Of one ticket of nodes, and of the QRT nodes at its count, against the nodes that were pruned."""
    config, fold, count = sources.config, ticket.fold, len(numbers)
    pruned = np.setdiff1d(np.arange(config.wide), numbers)
    pool = frequencies(sources.wide_nodes(fold)[pruned], config.ridgelet)
    reference = frequencies(sources.reference(fold), config.ridgelet)
    (second,) = [
        one for one in drawn if one.method == "qrt-smoothed" and one.fold is fold and len(one.nodes) == count
    ]
    return overlap_rows(
        {
            "imp-nodes": frequencies(ticket.nodes, config.ridgelet),
            "qrt-smoothed": frequencies(second.nodes, config.ridgelet),
        },
        reference,
        partial(random_rows, pool, count),
        nodes=count,
        seed=fold.seed,
        rank=config.rank,
        draws=config.null_draws,
    )


def _weight_overlaps(sources: ShallowSources, one: Survivors) -> list[Row]:
    """Of the hidden weights that pruning left, against as sparse ones of the network before pruning."""
    config = sources.config
    return overlap_rows(
        {"imp-weights": one.kept},
        frequencies(sources.reference(one.fold), config.ridgelet),
        partial(masked_columns, one.kept, one.wide),
        nodes=one.budget,
        seed=one.fold.seed,
        rank=config.rank,
        draws=config.null_draws,
    )


def _comparable(one: Survivors) -> bool:
    """Whether weights and nodes have the same coordinates: not after principal components."""
    return bool(len(one.kept)) and one.kept.shape[1] == one.fold.grid.shape[1]
