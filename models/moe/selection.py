"""Choose the experts that stay by a criterion's scores: in each layer, over all layers, or down to a size."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, chain

import numpy as np

from qrt_tn.engine.arguments import Seed, check_whole, generator
from qrt_tn.models.moe.criteria import Criterion, find_criterion, pick, score
from qrt_tn.models.moe.records import ExpertLayer

SCOPES = ("layer", "global")


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
        ties: by number of the block, the places of experts of equal scores of which some stay and some go:
            their order decided there, and not the criterion. Blocks without such experts are left out.
    """

    criterion: str
    scope: str
    kept: dict[int, tuple[int, ...]]
    pruned: dict[int, tuple[int, ...]]
    scores: dict[int, np.ndarray]
    ties: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many experts go."""
        return sum(len(places) for places in self.pruned.values())


class TiedError(ValueError):
    """A criterion gives all experts of a layer one score."""


@dataclass(frozen=True)
class _Unit:
    """What goes together: one expert, or one of each ensemble member."""

    score: float  # the mean
    layer: int
    rank: int  # among the units of the layer, lowest score first
    places: tuple[int, ...]
    nbytes: int


def choose_layers(layers: Mapping[int, ExpertLayer], numbers: Iterable[int] | None) -> dict[int, ExpertLayer]:
    """The layers of these numbers, ascending; all if None; a ValueError where one is not there."""
    try:
        wanted = set(layers if numbers is None else numbers)
    except TypeError as error:
        raise ValueError(f"layers is {numbers!r}; give a list of blocks") from error
    unknown = [number for number in wanted if number not in layers]
    if unknown:
        raise ValueError(f"layer {unknown[0]!r} has no experts; choose among {', '.join(map(str, layers))}")
    return {number: layers[number] for number in sorted(wanted)}


def choose_experts(
    layers: Mapping[int, ExpertLayer],
    criterion: str | Criterion,
    *,
    n_prune: int | None = None,
    scope: str = "layer",
    budget_bytes: int | None = None,
    total_bytes: int = 0,
    min_experts: int = 1,
    selected: int = 1,
    seed: Seed = 0,
) -> Selection:
    """Choose the experts to keep.

    Experts of lowest score go first, of equal ones those of lower place (and in the lower layer); the
    released code's sort promises no order there. `Selection.ties` tells where equal scores were cut. With
    ensemble members the same number goes from each: the experts of one rank in their groups go together, over
    several layers by the mean of their scores.

    Args:
        layers: those to prune, by number of the block, with the evidence that the criterion needs.
        criterion: its name, or the criterion itself.
        n_prune: how many experts go: of each layer in the scope "layer", of all together in "global", where
            raw scores of different layers are compared. A multiple of the number of ensemble members.
        scope: "layer" or "global"; a criterion that picks sets has only "layer".
        budget_bytes: instead of `n_prune`: experts of lowest score over all layers go until all parameters
            take no more bytes. Columns of routers are counted as kept, so that the budget holds in each mode
            of removal. `scope` plays no part.
        total_bytes: of all parameters before, for `budget_bytes`.
        min_experts: experts that are left in each group of each layer, at the least.
        selected: K, the experts of a token; only for a criterion that picks sets.
        seed: for a criterion that draws random numbers; layers are drawn in ascending order.

    Raises:
        ValueError: neither or both of `n_prune` and `budget_bytes`, more experts than can go, a budget out of
            reach, evidence that is missing, merged experts, scores that are not finite, or a layer that is to
            be pruned and has equal scores only.
    """
    found = find_criterion(criterion)
    layers = dict(sorted(layers.items()))
    _check_request(found, layers, n_prune, scope, budget_bytes, min_experts)
    if found.subset:
        assert n_prune is not None
        kept = {
            number: pick(found, layer, layer.experts.experts - n_prune, selected, min_experts)
            for number, layer in layers.items()
        }
        return Selection(found.name, scope, kept, _others(layers, kept), {})
    rng = generator(seed)
    scores = {number: score(found, layer, seed=rng) for number, layer in layers.items()}
    units = {number: _units(layer, scores[number]) for number, layer in layers.items()}
    free = {number: ranked[: max(len(ranked) - min_experts, 0)] for number, ranked in units.items()}
    pools = {f"layer {number}": ranked for number, ranked in free.items()}
    if scope == "global" or budget_bytes is not None:
        pools = {"all layers": sorted(chain(*free.values()), key=lambda u: (u.score, u.layer, u.rank))}
    gone: set[tuple[int, int]] = set()
    tied: set[tuple[int, int]] = set()
    for where, pool in pools.items():
        count = _count(pool, where, n_prune, total_bytes, budget_bytes, min_experts)
        gone |= {(unit.layer, place) for unit in pool[:count] for place in unit.places}
        if 0 < count < len(pool) and pool[count - 1].score == pool[count].score:
            equal = [unit for unit in pool if unit.score == pool[count].score]
            tied |= {(unit.layer, place) for unit in equal for place in unit.places}
    kept = {
        number: tuple(place for place in range(layer.experts.experts) if (number, place) not in gone)
        for number, layer in layers.items()
    }
    for number, layer in layers.items():
        values = scores[number]
        if len(kept[number]) < len(values) and all(np.ptp(values[places]) == 0 for places in layer.groups):
            raise TiedError(
                f"criterion {found.name!r} gives all experts of layer {number} the score {values[0]:.6g}, so"
                " nothing tells which to prune; take another criterion, or other evidence (the model before"
                " fine-tuning, a calibration pass)"
            )
        tied |= {(number, place) for place in _tied(layer, values, kept[number])}
    ties = {
        number: tuple(sorted(place for layer, place in tied if layer == number))
        for number in sorted({layer for layer, _ in tied})
    }
    told = scope if budget_bytes is None else "budget"
    return Selection(found.name, told, kept, _others(layers, kept), scores, ties)


def _check_request(
    criterion: Criterion,
    layers: Mapping[int, ExpertLayer],
    n_prune: int | None,
    scope: str,
    budget_bytes: int | None,
    min_experts: int,
) -> None:
    if not layers:
        raise ValueError("no layers to prune; name at least one that has experts")
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
    for layer in layers.values():
        sizes = [len(places) for places in layer.groups]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"the ensemble members of layer {layer.number} have {sizes} experts;"
                " prune the same number from each"
            )


def _units(layer: ExpertLayer, scores: np.ndarray) -> list[_Unit]:
    """The units of a layer, lowest score first."""
    size = layer.experts.nbytes // layer.experts.experts
    ranks = [[places[i] for i in np.argsort(scores[places], kind="stable")] for places in layer.groups]
    return [
        _Unit(float(scores[list(places)].mean()), layer.number, rank, places, size * len(places))
        for rank, places in enumerate(zip(*ranks, strict=True))
    ]


def _count(
    pool: list[_Unit],
    where: str,
    n_prune: int | None,
    total_bytes: int,
    budget_bytes: int | None,
    min_experts: int,
) -> int:
    """How many units make so many experts, or have to go for so many bytes."""
    if budget_bytes is not None:
        left = [total_bytes - gone for gone in (0, *accumulate(unit.nbytes for unit in pool))]
        if left[-1] > budget_bytes:
            raise ValueError(
                f"budget_bytes is {budget_bytes:,}, but {left[-1]:,} are left when each layer (each ensemble"
                f" member) keeps {min_experts} experts; give at least {left[-1]:,}"
            )
        return next(count for count, nbytes in enumerate(left) if nbytes <= budget_bytes)
    assert n_prune is not None
    totals = [0, *accumulate(len(unit.places) for unit in pool)]
    if n_prune > totals[-1]:
        raise ValueError(
            f"{n_prune} experts of {where} cannot go; prune at most {totals[-1]}, so that {min_experts} are"
            " left in each layer (of each ensemble member)"
        )
    count = next(count for count, total in enumerate(totals) if total >= n_prune)
    if totals[count] > n_prune:
        raise ValueError(
            f"n_prune is {n_prune}, but the ensemble members of {where} lose experts together;"
            f" give {totals[count]}"
        )
    return count


def _tied(layer: ExpertLayer, scores: np.ndarray, kept: tuple[int, ...]) -> set[int]:
    """The experts of a layer whose score is that of one that stays and of one that goes."""
    tied = set()
    for places in layer.groups:
        stay = {scores[place] for place in places if place in kept}
        go = {scores[place] for place in places if place not in kept}
        tied |= {place for place in places if scores[place] in stay & go}
    return tied


def _others(
    layers: Mapping[int, ExpertLayer], kept: Mapping[int, tuple[int, ...]]
) -> dict[int, tuple[int, ...]]:
    return {
        number: tuple(sorted(set(range(layer.experts.experts)) - set(kept[number])))
        for number, layer in layers.items()
    }
