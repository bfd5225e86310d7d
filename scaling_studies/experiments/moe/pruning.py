"""Accuracy against experts pruned, for every criterion and mode, on networks that are really smaller."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from qrt_tn.models.moe.config import VisionMoeConfig
from qrt_tn.models.moe.costs import flops_per_image, parameter_bytes, parameter_count
from qrt_tn.models.moe.criteria import CRITERIA, find_criterion
from qrt_tn.models.moe.maps import ExpertMap
from qrt_tn.models.moe.merging import merge
from qrt_tn.models.moe.pruning import choices, remove
from qrt_tn.models.moe.records import ExpertLayer
from qrt_tn.models.moe.selection import Selection, TiedError, choose_experts
from qrt_tn.models.moe.statistics import LayerStatistics, calibrate
from qrt_tn.models.moe.training import train_moe
from qrt_tn.models.moe.trees import Tree, read_layers, to_tree
from qrt_tn.studies.experiments.moe.config import MERGE, MoeStudyConfig
from qrt_tn.studies.experiments.moe.networks import Pair
from qrt_tn.studies.experiments.moe.programs import Programs, anonymous
from qrt_tn.studies.parallel import side_by_side
from qrt_tn.studies.progress import StageTimer

Row = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """One way to have fewer experts.

    Attributes:
        criterion: which experts go, or "merge".
        draw: of "random", else 0.
        mode: of removal, or "merge".
        prune: experts that go from each layer.
    """

    criterion: str
    draw: int
    mode: str
    prune: int


@dataclass(eq=False)
class _Known:
    """What is at hand of one network."""

    pair: Pair
    statistics: Mapping[int, LayerStatistics]
    layers: Mapping[int, ExpertLayer]
    selections: dict[tuple[str, int, int], Selection] = field(default_factory=dict)
    accuracies: dict[Any, float] = field(default_factory=dict)


def prune_networks(
    config: MoeStudyConfig, pairs: Sequence[Pair], timer: StageTimer
) -> tuple[list[Row], list[Row], list[str]]:
    """Prune every network in every way, and measure what is left.

    Args:
        config: the study's settings.
        pairs: its networks.
        timer: shows the work.

    Returns:
        Rows of the tables "pruned" and "scores"; and notes on what was left out.

    Raises:
        ValueError: no criterion tells which experts to prune, in any of the networks.
    """
    programs = Programs(pairs[0].config, pairs[0].tree)
    # one network of each kind first, so that programs are compiled side by side and each but once
    pairs = sorted(pairs, key=lambda pair: pair.seed)
    with timer.stage("Calibration", len(pairs)) as stage:
        known = side_by_side([partial(_calibrated, config, pair, programs) for pair in pairs], stage.advance)
    tied = set[str]()
    ways = {router: list(candidates(config, router)) for router in config.routers}
    with timer.stage("Accuracy after pruning", sum(len(ways[pair.router]) for pair in pairs)) as stage:

        def measured(one: _Known) -> list[Row]:
            rows = []
            for candidate in ways[one.pair.router]:
                try:
                    rows.append(_measured(config, one, candidate, programs))
                except TiedError as error:
                    fault = str(error).partition(";")[0]
                    tied.add(f"Left out for {one.pair.router}, seed {one.pair.seed}: {fault}.")
                stage.advance()
            return rows

        found = side_by_side([partial(measured, one) for one in known], lambda: None)
    rows = [row for part in found for row in part]
    if not rows:
        raise ValueError(f"nothing can be pruned; add criteria. {min(tied)}")
    _tuned(config, known, rows, programs, timer)
    scores = [row for one in known for row in _scores(config, one)]
    for table in (rows, scores):
        table.sort(key=lambda row: (config.routers.index(row["router"]), row["seed"]))
    return rows, scores, [*what_is_left_out(config), *sorted(tied)]


def _calibrated(config: MoeStudyConfig, pair: Pair, programs: Programs) -> _Known:
    network = programs.network(pair.config, pair.tree)
    images = pair.points.x[: config.calibration_images]
    statistics = calibrate(network, images, batch_size=min(128, len(images)))
    layers = read_layers(
        pair.tree, maps=pair.config.all_maps, pretrained=pair.pretrained, statistics=statistics
    )
    return _Known(pair, statistics, layers)


def check_ways(config: MoeStudyConfig) -> None:
    """See that there is something to prune, before anything is trained.

    Raises:
        ValueError: no criterion, mode and number go together for a kind of router.
    """
    for router in config.routers:
        if next(candidates(config, router), None) is None:
            raise ValueError(
                f"none of the criteria {', '.join(config.criteria)} can prune"
                f" {', '.join(map(str, config.prune))} of {config.experts} experts of {router} routers in the"
                f" modes {', '.join(config.modes)}; prune fewer, or add criteria, modes or routers"
            )


def candidates(config: MoeStudyConfig, router: str) -> Iterator[Candidate]:
    """The ways of pruning that apply to a kind of router."""
    least = config.selected if router == "token-choice" else 1
    for prune in config.prune:
        for mode in config.modes:
            if mode != "keep-router" and config.experts - prune < least:
                continue
            for criterion in config.criteria:
                if criterion == MERGE or not _applies(config, criterion, router, prune):
                    continue
                draws = config.random_draws if find_criterion(criterion).seeded else 1
                yield from (Candidate(criterion, draw, mode, prune) for draw in range(draws))
        if MERGE in config.criteria:
            yield Candidate(MERGE, 0, MERGE, prune)


def _applies(config: MoeStudyConfig, criterion: str, router: str, prune: int) -> bool:
    """Criteria that pick sets know token choice only, and leave a token as many experts as it goes to.

    Under expert choice every expert takes as many tokens, so that how many tells nothing.
    """
    if criterion == "frequency" and router == "expert-choice":
        return False
    if not find_criterion(criterion).subset:
        return True
    return router == "token-choice" and config.experts - prune >= config.selected


def what_is_left_out(config: MoeStudyConfig) -> list[str]:
    """Sentences on ways that do not apply, and on how merged networks are measured."""
    notes = []
    sets = [name for name in config.criteria if name in CRITERIA and CRITERIA[name].subset]
    if sets and "expert-choice" in config.routers:
        notes.append(f"{', '.join(sets)}: defined for token choice, left out for expert choice.")
    if "frequency" in config.criteria and "expert-choice" in config.routers:
        notes.append("frequency: left out for expert choice, where every expert takes as many tokens.")
    few = [prune for prune in config.prune if config.experts - prune < config.selected]
    if few and "token-choice" in config.routers:
        listed = ", ".join(map(str, few))
        notes.append(
            f"Token choice with {listed} experts pruned: fewer are left than the {config.selected} that a"
            " token goes to, so there is no mode that drops columns, and no set to pick."
        )
    if MERGE in config.criteria:
        notes.append(
            "Merged networks are measured with a copy of its expert for each router column, which computes"
            " the same; their parameters and bytes are those without copies."
        )
    return notes


def _selection(one: _Known, criterion: str, draw: int, prune: int) -> Selection:
    """Which experts stay, chosen once for all modes."""
    key = (criterion, draw, prune)
    if key not in one.selections:
        one.selections[key] = choose_experts(
            one.layers,
            criterion,
            n_prune=prune,
            selected=choices(one.pair.config),
            seed=np.random.default_rng([one.pair.seed, draw]),
        )
    return one.selections[key]


def _smaller(one: _Known, candidate: Candidate) -> tuple[Tree, VisionMoeConfig, dict[int, ExpertMap]]:
    """The tree of a network with fewer experts, its configuration, and the maps with numbers."""
    config = one.pair.config
    if candidate.mode == MERGE:
        left = config.experts - candidate.prune
        tree, maps = merge(one.pair.tree, one.statistics, left, maps=config.all_maps)
        return tree, anonymous(config, maps), maps
    selection = _selection(one, candidate.criterion, candidate.draw, candidate.prune)
    tree, maps = remove(
        one.pair.tree,
        selection.kept,
        candidate.mode,
        maps=config.all_maps,
        selected=choices(config),
    )
    return tree, anonymous(config, maps), maps


def _measured(config: MoeStudyConfig, one: _Known, candidate: Candidate, programs: Programs) -> Row:
    tree, shape, maps = _smaller(one, candidate)
    # criteria often agree on what goes
    key = (candidate.mode, candidate.prune, tuple(expert_map.source_ids for expert_map in maps.values()))
    if key not in one.accuracies:
        one.accuracies[key] = programs.accuracy(shape, tree, one.pair.points)
    return {
        "router": one.pair.router,
        "seed": one.pair.seed,
        "draw": candidate.draw,
        "criterion": candidate.criterion,
        "mode": candidate.mode,
        "pruned": candidate.prune,
        "ratio": candidate.prune / config.experts,
        "parameters": parameter_count(shape),
        "bytes": parameter_bytes(shape),
        "flops": flops_per_image(shape),
        "accuracy": one.accuracies[key],
        "finetuned_accuracy": None,
    }


def _tuned(
    config: MoeStudyConfig,
    known: Sequence[_Known],
    rows: list[Row],
    programs: Programs,
    timer: StageTimer,
) -> None:
    """Fine-tune some pruned networks, and put what they reach into their rows."""
    by_network = {(one.pair.router, one.pair.seed): one for one in known}
    wanted = [row for row in rows if config.tune_steps and _is_tuned(config, row)]
    if not wanted:
        return
    # one of each shape first, so that programs are compiled side by side and each but once
    wanted.sort(key=lambda row: (row["seed"], row["criterion"], row["draw"]))
    with timer.stage("Fine-tuning after pruning", len(wanted)) as stage:

        def tuned(row: Row) -> float:
            one = by_network[row["router"], row["seed"]]
            candidate = Candidate(row["criterion"], row["draw"], row["mode"], row["pruned"])
            tree, shape, _ = _smaller(one, candidate)
            network = programs.network(shape, tree)
            points = one.pair.points
            train_moe(
                network, points.x, points.y, config.tuning, seed=np.random.default_rng([row["seed"], 2])
            )
            return programs.accuracy(shape, to_tree(network), points)

        results = side_by_side([partial(tuned, row) for row in wanted], stage.advance)
    for row, accuracy in zip(wanted, results, strict=True):
        row["finetuned_accuracy"] = accuracy


def _is_tuned(config: MoeStudyConfig, row: Row) -> bool:
    """Whether a pruned network is fine-tuned: in the mode in which Chowdhury et al. prune its kind."""
    mode = "keep-router" if row["router"] == "token-choice" else "drop-router"
    return (
        row["criterion"] in config.tune_criteria
        and row["pruned"] in config.tune_prune
        and row["mode"] in (mode, MERGE)
        and (row["criterion"] != "random" or row["draw"] < config.tune_draws)
    )


def _scores(config: MoeStudyConfig, one: _Known) -> Iterator[Row]:
    for criterion in config.criteria:
        if criterion == MERGE or find_criterion(criterion).subset:
            continue
        for layer, scores in _selection(one, criterion, 0, 0).scores.items():
            for expert, score in enumerate(scores):
                yield {
                    "router": one.pair.router,
                    "seed": one.pair.seed,
                    "layer": layer,
                    "expert": expert,
                    "criterion": criterion,
                    "score": float(score),
                }
