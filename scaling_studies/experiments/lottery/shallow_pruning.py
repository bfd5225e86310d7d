"""Iterative magnitude pruning of over-wide shallow networks: of whole ridge nodes, and of single weights.

Frankle and Carbin, The lottery ticket hypothesis (arXiv 1803.03635): train, prune what is smallest,
rewind what is left to its initial values, and again. A round trains as long as the final network does.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from flax import nnx

from qrt_tn import RidgeNodes
from qrt_tn.models import DenseNetwork, RidgeNetwork
from qrt_tn.models.lottery.masks import full_masks, is_within
from qrt_tn.models.lottery.pruning import layer_rates, prune_by_magnitude
from qrt_tn.models.tickets import SparseNetwork, strongest_nodes
from qrt_tn.studies.experiments.folds import Fold
from qrt_tn.studies.experiments.lottery.shallow_config import ShallowConfig
from qrt_tn.studies.experiments.lottery.shallow_costs import training_flops
from qrt_tn.studies.experiments.lottery.shallow_sources import (
    WIDE,
    Cost,
    Drawn,
    ridge_network,
    train_networks,
)

Scores = dict[str, float | None]


@dataclass(frozen=True, eq=False)
class Trained:
    """One trained network of a round of pruning.

    Attributes:
        fold: its data.
        budget: the node count of `ShallowConfig.nodes` that it is compared at, or `wide` before pruning.
        nodes: hidden nodes alive.
        parameters: numbers that a deployed network must hold.
        scores: of the trained network.
        cost: of all rounds so far, this one included.
    """

    fold: Fold
    budget: int
    nodes: int
    parameters: int
    scores: Scores
    cost: Cost


@dataclass(frozen=True, eq=False)
class Survivors:
    """Directions that a round of pruning left, and those that it took, for overlaps.

    Attributes:
        fold: its data.
        budget: as in `Trained`.
        kept: directions of what is left, shape (N, D).
        wide: directions of the over-wide network that a null distribution draws from, shape (W, D).
    """

    fold: Fold
    budget: int
    kept: np.ndarray
    wide: np.ndarray


def targets(config: ShallowConfig) -> list[int]:
    """The node counts of the rounds of node pruning: each keeps a share, and stops at every count wanted."""
    counts = [config.wide]
    for wanted in reversed(config.nodes):
        while counts[-1] > wanted:
            counts.append(max(wanted, min(counts[-1] - 1, round(config.keep * counts[-1]))))
    return counts


def prune_nodes(
    nodes: list[RidgeNodes],
    folds: list[Fold],
    config: ShallowConfig,
    done: Callable[[], None],
) -> tuple[list[Trained], list[tuple[Drawn, np.ndarray]]]:
    """Prune ridge nodes by the norm of their trained output weights, and rewind the rest.

    Survivors go back to their drawn (a, b), offsets 0, and their initial output weights.

    Args:
        nodes: those of the over-wide network of each fold.
        folds: the data.
        config: the settings.
        done: called after each round, `len(targets(config))` times.

    Returns:
        The rewound and trained networks at the counts wanted and before any pruning ("imp-nodes-rewound"),
        and for each count wanted the surviving nodes as drawn, at the cost of all rounds that led to them,
        with their numbers among those of the over-wide network.
    """
    networks = [ridge_network(own, fold, config, WIDE) for own, fold in zip(nodes, folds, strict=True)]
    initial = [np.asarray(network.kernel[...]) for network in networks]
    kept = [np.arange(config.wide) for _ in folds]
    costs = [Cost() for _ in folds]
    trained: list[Trained] = []
    tickets: list[tuple[Drawn, np.ndarray]] = []
    for count in targets(config):
        if count < config.wide:
            kept = [
                numbers[strongest_nodes(network.kernel[...], count)]
                for numbers, network in zip(kept, networks, strict=True)
            ]
            tickets += [
                (Drawn("imp-nodes", fold, own[numbers], cost), numbers)
                for fold, own, numbers, cost in zip(folds, nodes, kept, costs, strict=True)
                if count in config.nodes
            ]
            networks = [
                rewound(own[numbers], kernel[numbers], fold, config)
                for own, numbers, kernel, fold in zip(nodes, kept, initial, folds, strict=True)
            ]
        start = time.perf_counter()
        train_networks(networks, [fold.grid for fold in folds], folds, config.epochs)
        seconds = (time.perf_counter() - start) / len(folds)
        for i, (fold, network) in enumerate(zip(folds, networks, strict=True)):
            weights = count * (network.dim + network.outputs)
            costs[i] += Cost(training_flops(weights, len(fold.split.train), config.epochs), seconds)
            if count in config.nodes or count == config.wide:
                scores = fold.scores(network.predict(fold.grid))
                trained.append(Trained(fold, count, count, network.parameter_count(), scores, costs[i]))
        done()
    return trained, tickets


def rewound(nodes: RidgeNodes, kernel: np.ndarray, fold: Fold, config: ShallowConfig) -> RidgeNetwork:
    """A network of surviving nodes at their drawn (a, b) and given output weights."""
    network = ridge_network(nodes, fold, config, WIDE)
    network.set_output_weights(kernel, np.zeros(fold.outputs))
    return network


def prune_weights(
    folds: list[Fold], config: ShallowConfig, done: Callable[[], None]
) -> tuple[list[Trained], list[Survivors]]:
    """Prune the weights of an over-wide dense ReLU network by magnitude, layer by layer, and rewind.

    A network is compared at a node count once it holds no more numbers than a ridge network of as many
    nodes does; where rounds end before that, as `most_rounds` says, it is left out there.

    Args:
        folds: the data.
        config: the settings.
        done: called after each round, at most `most_rounds(...) + 1` times.

    Returns:
        The trained networks at those rounds, and one before any pruning; and the hidden weights of their
        live nodes after training, against those of the over-wide network after its training.
    """
    networks: list[SparseNetwork] = []
    initial, masks = [], []
    for fold in folds:
        rngs = nnx.Rngs(1000 * fold.seed + WIDE)
        dense = DenseNetwork(fold.scaled.shape[1], config.wide, fold.outputs, rngs=rngs)
        params = nnx.to_pure_dict(nnx.state(dense, nnx.Param))
        initial.append({name: np.asarray(value) for name, value in params.items()})
        masks.append(full_masks(initial[-1]))
        networks.append(SparseNetwork(initial[-1], masks[-1]))
    costs = [Cost() for _ in folds]
    waiting = [sorted(config.nodes) for _ in folds]
    columns: list[np.ndarray] = []
    trained: list[Trained] = []
    survivors: list[Survivors] = []
    for number in range(most_rounds(folds[0], config) + 1):
        if not any(waiting):
            break
        if number:
            for i, network in enumerate(networks):
                values = nnx.to_pure_dict(nnx.state(network, nnx.Param))
                rates = layer_rates(masks[i], config.hidden_rate, config.hidden_rate, config.output_rate)
                pruned = prune_by_magnitude(values, masks[i], rates)
                assert is_within(pruned, masks[i])
                masks[i] = pruned
            networks = [SparseNetwork(*one) for one in zip(initial, masks, strict=True)]
        start = time.perf_counter()
        train_networks(networks, [fold.scaled for fold in folds], folds, config.epochs)
        seconds = (time.perf_counter() - start) / len(folds)
        if not number:
            columns = [np.asarray(network.hidden_kernel[...]).T for network in networks]
        for i, (fold, network) in enumerate(zip(folds, networks, strict=True)):
            flops = training_flops(network.weight_count(), len(fold.split.train), config.epochs)
            costs[i] += Cost(flops, seconds)
            live, parameters = network.live_nodes(), network.parameter_count()
            reached = [config.wide] if not number else []
            while waiting[i] and parameters <= ridge_parameters(waiting[i][-1], fold):
                reached.append(waiting[i].pop())
            if reached:
                scores = fold.scores(network.predict(fold.scaled))
                one = [Trained(fold, b, int(live.sum()), parameters, scores, costs[i]) for b in reached]
                trained += one
                left = np.asarray(network.hidden_kernel[...])[:, live].T
                survivors += [Survivors(fold, b, left, columns[i]) for b in reached if b != config.wide]
        done()
    return trained, survivors


def ridge_parameters(nodes: int, fold: Fold) -> int:
    """Numbers that a ridge network holds: N (D + 1) + N C + C."""
    return nodes * (fold.grid.shape[1] + 1 + fold.outputs) + fold.outputs


def most_rounds(fold: Fold, config: ShallowConfig) -> int:
    """How many rounds of weight pruning lead to the smallest count, were every bias to stay.

    As nodes die, and their biases with them, it is reached earlier. Where a layer has too few weights to
    lose one in a round, rounds end.
    """
    left = [config.wide * fold.scaled.shape[1], config.wide * fold.outputs]
    rounds = 0
    while sum(left) + min(config.wide, *left) + fold.outputs > ridge_parameters(config.nodes[0], fold):
        rates = config.hidden_rate, config.output_rate
        taken = [int(np.floor(rate * count + 0.5)) for rate, count in zip(rates, left, strict=True)]
        left = [count - gone for count, gone in zip(left, taken, strict=True)]
        if not any(taken) or min(left) < 1:
            break
        rounds += 1
    return rounds
