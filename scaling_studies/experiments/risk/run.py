"""One network of drawn nodes: its settings chosen, its output weights fitted, its risk told."""

import time
from collections.abc import Mapping

import numpy as np
from threadpoolctl import threadpool_limits

from qrt_tn import diagnose, states
from qrt_tn.models.shallow import ShallowNetwork
from qrt_tn.studies.experiments.catalogue import Context
from qrt_tn.studies.experiments.fitting import Scores, draws_at, fit, mean_scores, rank
from qrt_tn.studies.experiments.folds import Fold, make_fold
from qrt_tn.studies.experiments.lottery.shallow_sources import train_networks
from qrt_tn.studies.experiments.risk.data import load_named
from qrt_tn.studies.experiments.risk.samplers import Sampler, grid_config, make_sampler
from qrt_tn.studies.experiments.risk.settings import Risk
from qrt_tn.studies.experiments.sources import Setting, inputs

CHOOSING, REPORTED, DIAGNOSED = 31, 32, 33  # streams of one seed: what is reported had no part in a choice
DIAGNOSED_NODES = 256


def measure(settings: Risk, seed: int, context: Context) -> Mapping[str, float | int | None]:
    """Draw nodes, fit them, and tell how they do.

    Few nodes vary much from draw to draw, so that scores are means over several draws (`draws_at`).

    Args:
        settings: of the point.
        seed: of the split, of the nodes, and of the order of training.
        context: of the point; linear algebra keeps to its cores.

    Raises:
        UnavailableError: data or a backend that this machine has not.
        ValueError: settings or data that cannot be used.
    """
    with threadpool_limits(context.cores):
        return _measured(settings, seed, context)


def _measured(settings: Risk, seed: int, context: Context) -> Mapping[str, float | int | None]:
    config = grid_config(settings)
    fold = make_fold(load_named(settings.data), config, seed, settings.points)
    count, draws = settings.nodes, draws_at(settings.nodes)
    sampler = make_sampler(settings, config, fold, count * draws)
    started = time.perf_counter()
    possible = sampler.settings()
    for setting in possible:
        sampler.prepare(setting)
    state_seconds = time.perf_counter() - started
    chosen = _choose(sampler, possible, fold, count, draws)
    context.say(f"{settings.sampler}, {count} nodes: {chosen}")
    started = time.perf_counter()
    networks = sampler.networks(chosen, count, draws, REPORTED)
    draw_seconds = time.perf_counter() - started
    started = time.perf_counter()
    found = _trained(networks, fold, settings) if settings.epochs else _fitted(networks, fold)
    fit_seconds = time.perf_counter() - started
    scores = mean_scores(found)
    accuracy = scores["test_accuracy"]
    return {
        "train_risk": scores["train_risk"],
        "validation_risk": scores["validation_risk"],
        "test_risk": scores["test_risk"],
        "test_accuracy": accuracy,
        "test_error": None if accuracy is None else 1 - accuracy,
        "width": chosen.smoothing,
        "bandwidth": chosen.bandwidth,
        **_described(sampler, chosen, seed),
        "draws": draws,
        "state_seconds": state_seconds,
        "draw_seconds": draw_seconds,
        "fit_seconds": fit_seconds,
    }


def _choose(sampler: Sampler, possible: list[Setting], fold: Fold, count: int, draws: int) -> Setting:
    """The setting that the validation points prefer, by nodes that are not reported."""
    if len(possible) == 1:
        return possible[0]
    ranks = []
    for setting in possible:
        networks = sampler.networks(setting, count, draws, CHOOSING)
        ranks.append(rank([mean_scores(_fitted(networks, fold))]))
    return possible[max(range(len(possible)), key=ranks.__getitem__)]


def _fitted(networks: list[ShallowNetwork], fold: Fold) -> list[Scores]:
    return [fit(fold, network.compute_features(inputs(network, fold)))[2] for network in networks]


def _trained(networks: list[ShallowNetwork], fold: Fold, settings: Risk) -> list[Scores]:
    """Scores after training all weights, from fitted output weights on where hidden nodes were drawn."""
    points = [inputs(network, fold) for network in networks]
    if settings.sampler != "dense-trained":
        for network, x in zip(networks, points, strict=True):
            network.set_output_weights(*fit(fold, network.compute_features(x))[:2])
    train_networks(networks, points, [fold] * len(networks), settings.epochs)
    return [fold.scores(network.predict(x)) for network, x in zip(networks, points, strict=True)]


def _described(sampler: Sampler, chosen: Setting, seed: int) -> dict[str, float | int | None]:
    """Bond and error of a compressed state, and the entropy of the weights drawn from any."""
    found: dict[str, float | int | None] = {"bond": None, "truncation_error": None, "entropy": None}
    transform = sampler.transform(chosen)
    if transform is None:
        return found
    if isinstance(transform.state, states.MPSState):
        found["bond"] = max(transform.state.bond_dimensions)
        found["truncation_error"] = float(transform.state.truncation_error)
    rng = np.random.default_rng([seed, DIAGNOSED])
    found["entropy"] = diagnose(transform, DIAGNOSED_NODES, rng).entropy.value
    return found
