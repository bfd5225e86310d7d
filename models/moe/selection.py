"""Which experts stay: by the scores of a criterion, in each layer, over all layers, or down to a size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qrt_tn.engine.arguments import Seed, check_whole, generator
from qrt_tn.models.moe.criteria import Criterion, check_evidence, find_criterion, score
from qrt_tn.models.moe.experts import (
    ExpertWeights,
    Maps,
    Tree,
    check_pair,
    expert_columns,
    expert_weights,
    group_count,
    map_of,
    moe_layers,
    parameter_bytes,
    router,
)
from qrt_tn.models.moe.statistics import LayerStatistics

SCOPES = ("layer", "global")

# Each expert is pruned alone; with ensemble members, one of each member goes together.
_Unit = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Selection:
    """The experts that stay and those that go.

    Attributes:
        criterion: by which they were chosen.
        scope: "layer", "global" or "budget".
        kept: by number of the block, the places of the experts that stay, ascending.
        pruned: those that go, likewise.
        scores: those of all experts of the block, shape (E,), low = pruned first; empty where the criterion
            picks a set.
    """

    criterion: str
    scope: str
    kept: dict[int, tuple[int, ...]]
    pruned: dict[int, tuple[int, ...]]
    scores: dict[int, np.ndarray]

    @property
    def count(self) -> int:
        """How many experts go."""
        return sum(len(places) for places in self.pruned.values())


@dataclass(frozen=True, eq=False)
class _Layer:
    """What is known of one layer: its experts in the order of their places, each with its router column."""

    number: int
    router: np.ndarray
    pretrained: np.ndarray | None
    experts: ExpertWeights
    statistics: LayerStatistics | None
    members: list[list[int]]  # the places of each group

    @property
    def left(self) -> int:
        return self.experts.experts


def select(
    tree: Tree,
    criterion: str | Criterion,
    *,
    pretrained: Tree | None = None,
    statistics: Mapping[int, LayerStatistics] | None = None,
    maps: Maps | None = None,
    n_prune: int | None = None,
    scope: str = "layer",
    budget_bytes: int | None = None,
    layers: Sequence[int] | None = None,
    min_experts: int = 1,
    groups: int = 1,
    selected: int = 1,
    seed: Seed = 0,
) -> Selection:
    """Choose the experts to keep.

    Experts of lowest score go first, of equal ones those of lower place (and in the lower layer); the
    released code's sort promises no order there. "global" and `budget_bytes` compare the raw scores of
    different layers.

    Args:
        tree: the parameters, fine-tuned where the criterion compares two checkpoints.
        criterion: its name, or the criterion itself.
        pretrained: the parameters before fine-tuning and before any pruning. Its heads (`head`, `pre_logits`)
            and the number of position embeddings may differ.
        statistics: by number of the block, of all columns of its router.
        maps: what became of experts before; layers that are not named are whole.
        n_prune: how many experts go: of each layer in the scope "layer", of all together in "global".
        scope: "layer" or "global"; a criterion that picks sets has only "layer".
        budget_bytes: instead of `n_prune`: experts of lowest score over all layers go until all
            parameters take no more bytes. Columns of routers are counted as kept, so that the budget holds
            in each mode of removal. `scope` plays no part.
        layers: numbers of the blocks; all that have experts if None.
        min_experts: experts that are left in each group of each layer, at the least.
        groups: ensemble members (E3), where the router's kernel does not tell: each is a contiguous group of
            columns, and the same number goes from each. `n_prune` must be a multiple of it; over
            several layers the experts of one rank in their groups go together, by the mean of their scores.
        selected: K, the experts of a token; only for a criterion that picks sets.
        seed: for a criterion that draws random numbers; layers are drawn in ascending order.

    Raises:
        ValueError: neither or both of `n_prune` and `budget_bytes`, more than can go, a budget out of reach,
            unknown layers or scope, checkpoints of different models, missing evidence, maps that do not
            fit, merged experts, or scores that are not finite.
    """
    chosen = find_criterion(criterion)
    numbers = _numbers(tree, layers)
    _check_request(chosen, n_prune, scope, budget_bytes, min_experts)
    if pretrained is not None:
        check_pair(tree, pretrained)
    rng = generator(seed)
    found = [_gather(tree, number, chosen, pretrained, statistics, maps, groups) for number in numbers]
    of_each = n_prune if scope == "layer" else None
    if of_each is not None:
        for layer in found:
            _check_layer(layer, of_each, min_experts)
        if chosen.subset:
            kept = {layer.number: _subset(layer, chosen, layer.left - of_each, selected) for layer in found}
            return _selection(chosen, scope, found, kept, {})
    scores = {layer.number: _named(layer, lambda item: _score(item, chosen, rng)) for layer in found}
    units = {layer.number: _units(layer, scores[layer.number]) for layer in found}
    taken: list[tuple[int, _Unit]] = []
    if of_each is not None:
        for layer in found:
            taken += [
                (layer.number, unit) for _, unit in units[layer.number][: of_each // len(layer.members)]
            ]
    elif n_prune is not None:
        taken = _first(_ranked(found, units, min_experts), n_prune, min_experts)
    elif budget_bytes is not None:
        taken = _within(tree, found, _ranked(found, units, min_experts), budget_bytes, min_experts)
    gone = {(number, place) for number, unit in taken for place in unit}
    kept = {
        layer.number: tuple(place for place in range(layer.left) if (layer.number, place) not in gone)
        for layer in found
    }
    return _selection(chosen, "budget" if budget_bytes is not None else scope, found, kept, scores)


def _numbers(tree: Tree, layers: Sequence[int] | None) -> tuple[int, ...]:
    present = moe_layers(tree)
    if layers is None:
        return present
    wrong = [number for number in layers if number not in present]
    if wrong or not len(layers):
        raise ValueError(
            f"layers is {list(layers)}; choose among those with experts, {', '.join(map(str, present))}"
        )
    return tuple(sorted(set(layers)))


def _check_request(
    criterion: Criterion, n_prune: int | None, scope: str, budget_bytes: int | None, min_experts: int
) -> None:
    if scope not in SCOPES:
        raise ValueError(f"scope is {scope!r}; choose one of {', '.join(SCOPES)}")
    if (n_prune is None) == (budget_bytes is None):
        raise ValueError(f"n_prune is {n_prune} and budget_bytes {budget_bytes}; give the one or the other")
    check_whole("min_experts", min_experts, 1)
    if n_prune is not None:
        check_whole("n_prune", n_prune, 0)
    if budget_bytes is not None:
        check_whole("budget_bytes", budget_bytes, 1)
    if criterion.subset and (scope != "layer" or budget_bytes is not None):
        raise ValueError(
            f"criterion {criterion.name!r} picks a set in each layer and cannot compare layers;"
            " give n_prune= with scope='layer'"
        )


def _gather(
    tree: Tree,
    number: int,
    criterion: Criterion,
    pretrained: Tree | None,
    statistics: Mapping[int, LayerStatistics] | None,
    maps: Maps | None,
    groups: int,
) -> _Layer:
    expert_map = map_of(tree, number, maps)
    columns = expert_columns(expert_map, number)
    before = None
    if pretrained is not None:
        whole = map_of(pretrained, number)
        if expert_map.capacity_experts != whole.columns or max(expert_map.source_ids) >= whole.columns:
            raise ValueError(
                f"the router of layer {number} had {expert_map.capacity_experts} columns before pruning,"
                f" that of the pre-trained model has {whole.columns};"
                " give the checkpoint it was fine-tuned from"
            )
        before = router(pretrained, number)[:, list(expert_map.source_ids)]
    held = None
    if "statistics" in criterion.needs:
        if not statistics or number not in statistics:
            raise ValueError(
                f"criterion {criterion.name!r} needs a calibration pass, and there is none of layer {number};"
                " give its results as statistics="
            )
        held = statistics[number]
        held.check_map(expert_map, number)
        held = held.take(columns)
    groups = group_count(tree, number, groups)
    width = expert_map.columns // groups
    members = [[p for p, column in enumerate(columns) if column // width == group] for group in range(groups)]
    if len({len(places) for places in members}) > 1:
        raise ValueError(
            f"the ensemble members of layer {number} have {[len(places) for places in members]} experts;"
            " prune the same number from each"
        )
    if criterion.subset and groups > 1:
        raise ValueError(
            f"criterion {criterion.name!r} knows no ensemble members, layer {number} has {groups};"
            " take a criterion that gives scores"
        )
    flat = router(tree, number)[:, list(columns)]
    return _Layer(number, flat, before, expert_weights(tree, number), held, members)


def _check_layer(layer: _Layer, n_prune: int, min_experts: int) -> None:
    groups = len(layer.members)
    if n_prune % groups:
        raise ValueError(
            f"n_prune is {n_prune}, but layer {layer.number} has {groups} ensemble members, and the same"
            " number goes from each; give a multiple of that"
        )
    most = layer.left - min_experts * groups
    if n_prune > most:
        raise ValueError(
            f"layer {layer.number} has {layer.left} experts, of which {n_prune} cannot go;"
            f" prune at most {max(most, 0)}, so that {min_experts * groups} are left"
        )


def _named(layer: _Layer, work: Callable[[_Layer], np.ndarray]) -> np.ndarray:
    try:
        return work(layer)
    except ValueError as error:
        raise ValueError(f"layer {layer.number}: {error}") from error


def _score(layer: _Layer, criterion: Criterion, rng: np.random.Generator) -> np.ndarray:
    return score(criterion, layer.pretrained, layer.router, layer.experts, layer.statistics, seed=rng)


def _subset(layer: _Layer, criterion: Criterion, keep: int, selected: int) -> tuple[int, ...]:
    if keep == layer.left:
        return tuple(range(keep))

    def picked(item: _Layer) -> np.ndarray:
        before, after = check_evidence(criterion, item.pretrained, item.router, item.experts, item.statistics)
        return np.asarray(
            criterion.function(before, after, item.experts, item.statistics, keep=keep, selected=selected)
        )

    places = _named(layer, picked)
    fits = places.shape == (keep,) and places.dtype.kind in "iu" and len(set(places.tolist())) == keep
    if not fits or places.min() < 0 or places.max() >= layer.left:
        raise ValueError(
            f"criterion {criterion.name!r} picks {places.tolist()} in layer {layer.number}; its function must"
            f" return {keep} different places from 0 to {layer.left - 1}"
        )
    return tuple(sorted(places.tolist()))


def _units(layer: _Layer, scores: np.ndarray) -> list[tuple[float, _Unit]]:
    """What can go, lowest first: one expert, or one of each ensemble member, with its mean score."""
    ranks = [[places[i] for i in np.argsort(scores[places], kind="stable")] for places in layer.members]
    return [(float(scores[list(unit)].mean()), unit) for unit in zip(*ranks, strict=True)]


def _ranked(
    found: list[_Layer], units: dict[int, list[tuple[float, _Unit]]], min_experts: int
) -> list[tuple[int, _Unit]]:
    """What can go over all layers, lowest score first, in each layer all but the last `min_experts`."""
    free = []
    for layer in found:
        held = units[layer.number]
        most = max(len(held) - min_experts, 0)
        free += [(value, layer.number, rank, unit) for rank, (value, unit) in enumerate(held[:most])]
    return [(number, unit) for _, number, _, unit in sorted(free, key=lambda entry: entry[:3])]


def _first(ranked: list[tuple[int, _Unit]], n_prune: int, min_experts: int) -> list[tuple[int, _Unit]]:
    taken, count = [], 0
    for number, unit in ranked:
        if count >= n_prune:
            break
        taken.append((number, unit))
        count += len(unit)
    if count < n_prune:
        raise ValueError(
            f"{n_prune} experts cannot go; prune at most {count} over all layers, so that {min_experts}"
            " are left in each group of each"
        )
    if count > n_prune:
        raise ValueError(f"n_prune is {n_prune}, but ensemble members lose experts together; give {count}")
    return taken


def _within(
    tree: Tree, found: list[_Layer], ranked: list[tuple[int, _Unit]], budget: int, min_experts: int
) -> list[tuple[int, _Unit]]:
    size = {layer.number: layer.experts.nbytes // layer.left for layer in found}
    total, taken = parameter_bytes(tree), []
    for number, unit in ranked:
        if total <= budget:
            break
        taken.append((number, unit))
        total -= size[number] * len(unit)
    if total > budget:
        raise ValueError(
            f"budget_bytes is {budget:,}, but {total:,} are left when each group of each layer keeps"
            f" {min_experts} experts; give at least {total:,}"
        )
    return taken


def _selection(
    criterion: Criterion,
    scope: str,
    found: list[_Layer],
    kept: dict[int, tuple[int, ...]],
    scores: dict[int, np.ndarray],
) -> Selection:
    pruned = {
        layer.number: tuple(place for place in range(layer.left) if place not in kept[layer.number])
        for layer in found
    }
    return Selection(criterion.name, scope, kept, pruned, scores)
