"""Criteria by which experts are pruned, in one registry: small pure functions, lowest score pruned first.

Each is a function of a layer's pre-trained router (h, E), its router (h, E), its ExpertWeights and the
LayerStatistics of its E columns. The first and the last are None unless the criterion names them in `needs`.
A criterion of your own takes a few lines, and its name then works wherever those below do:

    @moe.criterion("largest-bias", needs=())
    def largest_bias(pretrained, router, experts, statistics):
        "Experts that hardly move any token have small biases."
        return np.abs(experts.bias_out).max(axis=1)  # low = pruned first

The experts of V-MoE are MLPs of two matrices W0 (h, m) and W1 (m, h), not the three of language models with
gated MLPs; criteria of weights take both of them, and no biases. X_e are the tokens that went to expert e.
"""

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Field

from qrt_tn.engine.arguments import Seed, generator
from qrt_tn.models.moe.reconstruction import reconstruction
from qrt_tn.models.moe.records import ExpertLayer, ExpertWeights
from qrt_tn.models.moe.statistics import LayerStatistics
from qrt_tn.models.settings import settings

_Function = TypeVar("_Function", bound=Callable[..., Any])


@settings
class Criterion:
    """One way to say which experts of a layer matter least.

    Attributes:
        name: unique in the registry.
        function: of (pretrained, router, experts, statistics), giving E numbers, low = pruned first; with the
            keyword seed= (a Generator) if `seeded`, and with keep= and selected=, giving the places of the
            experts to keep, if `subset`.
        needs: which of "pretrained" and "statistics" it cannot do without.
    """

    name: Annotated[str, Field(min_length=1)]
    function: Callable[..., Any]
    needs: tuple[Literal["pretrained", "statistics"], ...] = ()
    source: str = ""
    seeded: bool = False
    subset: bool = False


CRITERIA: dict[str, Criterion] = {}


def criterion(name: str, **options: Any) -> Callable[[_Function], _Function]:
    """Put a function into the registry; it stays as it is.

    A function of the same module and name may be registered again, as when a cell of a notebook is run twice;
    another one may not take a name that is in use. `options` are those of `Criterion`.
    """

    def register(function: _Function) -> _Function:
        made, known = Criterion(name, function, **options), CRITERIA.get(name)
        if known is not None and _identity(known.function) != _identity(function):
            raise ValueError(f"there is a criterion {name!r} already; give yours another name")
        CRITERIA[name] = made
        return function

    return register


def find_criterion(criterion: str | Criterion) -> Criterion:
    """A criterion by its name, which must be known; one that is given as such stays as it is."""
    if isinstance(criterion, Criterion):
        return criterion
    if not isinstance(criterion, str) or criterion not in CRITERIA:
        near = get_close_matches(str(criterion), CRITERIA, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(CRITERIA)}"
        raise ValueError(f"unknown criterion {criterion!r}; {hint}")
    return CRITERIA[criterion]


def score(criterion: str | Criterion, layer: ExpertLayer, *, seed: Seed = 0) -> np.ndarray:
    """The scores of a layer's experts, shape (E,), float64: those of low score are pruned first.

    One int as `seed` gives the same draw for each layer: to score several layers, hand the same Generator to
    each call.

    Raises:
        ValueError: an unknown criterion, one that picks sets, evidence that is missing, merged experts, or a
            function that gives another shape or numbers that are not finite.
    """
    found = find_criterion(criterion)
    if found.subset:
        raise ValueError(f"criterion {found.name!r} picks a set and gives no scores; choose experts with it")
    options = {"seed": generator(seed)} if found.seeded else {}
    values = np.asarray(found.function(*_evidence(found, layer), **options))
    experts = layer.experts.experts
    if values.shape != (experts,) or values.dtype.kind not in "biuf":
        raise ValueError(
            f"criterion {found.name!r} gives {values.dtype} of shape {values.shape}; its function must return"
            f" a real number for each of the {experts} experts"
        )
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        expert = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(
            f"criterion {found.name!r} gives {values[expert]} for expert {expert} of layer {layer.number};"
            " see that the weights and statistics are finite, and that the function divides by no zero"
        )
    return values


def pick(
    criterion: Criterion, layer: ExpertLayer, keep: int, selected: int, min_experts: int
) -> tuple[int, ...]:
    """The places of the experts that a criterion of sets keeps, ascending; `selected` is K."""
    experts = layer.experts.experts
    if layer.members > 1:
        raise ValueError(
            f"criterion {criterion.name!r} knows no ensemble members, layer {layer.number} has"
            f" {layer.members}; take a criterion that gives scores"
        )
    if keep < min_experts:
        raise ValueError(
            f"{experts - keep} experts of layer {layer.number} cannot go; prune at most"
            f" {max(experts - min_experts, 0)}, so that {min_experts} are left"
        )
    if keep == experts:
        return tuple(range(keep))
    places = np.asarray(criterion.function(*_evidence(criterion, layer), keep=keep, selected=selected))
    fits = places.shape == (keep,) and places.dtype.kind in "iu" and len(set(places.tolist())) == keep
    if not fits or places.min() < 0 or places.max() >= experts:
        raise ValueError(
            f"criterion {criterion.name!r} picks {places.tolist()} in layer {layer.number}; its function must"
            f" return {keep} different places from 0 to {experts - 1}"
        )
    return tuple(sorted(places.tolist()))


def _evidence(criterion: Criterion, layer: ExpertLayer) -> tuple[Any, ...]:
    """What a criterion's function takes."""
    if "pretrained" in criterion.needs and layer.pretrained is None:
        raise ValueError(
            f"criterion {criterion.name!r} needs the model before fine-tuning;"
            " give its checkpoint as pretrained="
        )
    if "statistics" in criterion.needs and layer.statistics is None:
        raise ValueError(
            f"criterion {criterion.name!r} needs a calibration pass, and there is none of layer"
            f" {layer.number}; give images as calibration=, or what calibrate finds"
        )
    return layer.evidence()


@criterion("router-change", needs=["pretrained"], source="nowazrabbani/MoE_Pruning; arXiv 2405.16646")
def router_change(pretrained: Any, router: Any, experts: Any, statistics: Any) -> np.ndarray:
    """||w_e after|| - ||w_e before||, signed as in the released code: a column that shrinks goes first."""
    return _norms(router) - _norms(pretrained)


@criterion("router-change-abs", needs=["pretrained"], source="a variant of router-change")
def router_change_abs(pretrained: Any, router: Any, experts: Any, statistics: Any) -> np.ndarray:
    """| ||w_e after|| - ||w_e before|| |."""
    return np.abs(_norms(router) - _norms(pretrained))


@criterion("router-difference", needs=["pretrained"], source="a variant of router-change")
def router_difference(pretrained: Any, router: Any, experts: Any, statistics: Any) -> np.ndarray:
    """||w_e after - w_e before||, which sees a column that only turns."""
    return _norms(router - pretrained)


@criterion("router-norm", source="MC-Suite (RWN), arXiv 2504.05586")
def router_norm(pretrained: Any, router: Any, experts: Any, statistics: Any) -> np.ndarray:
    """||w_e||: the norm of the router's column."""
    return _norms(router)


@criterion("expert-norm", source="MC-Suite (EWN), arXiv 2504.05586")
def expert_norm(pretrained: Any, router: Any, experts: ExpertWeights, statistics: Any) -> np.ndarray:
    """sqrt(||W0||_F^2 + ||W1||_F^2); how the source joins an expert's matrices was not found."""
    return np.array([np.sqrt(sum((w**2).sum() for w in both)) for both in _matrices(experts)])


@criterion("stable-rank", source="MC-Suite (WSR), arXiv 2504.05586")
def stable_rank(pretrained: Any, router: Any, experts: ExpertWeights, statistics: Any) -> np.ndarray:
    """sum_i s_i^2 / s_1^2 of singular values, 0 for a zero matrix; the mean over W0 and W1, by our choice."""
    return np.array([np.mean([_stable_rank(w) for w in both]) for both in _matrices(experts)])


@criterion("aimer", source="ZongfangLiu/AIMER, arXiv 2603.18492")
def aimer(pretrained: Any, router: Any, experts: ExpertWeights, statistics: Any) -> np.ndarray:
    """-mean|W| / rms(W) over all entries of W0 and W1 together; -1 for an expert that is all zero.

    AIMER prunes the experts of *high* ratio, those whose weights are of most even size; the sign is turned.
    """
    values = []
    for both in _matrices(experts):
        size = sum(w.size for w in both)
        mean = sum(np.abs(w).sum() for w in both) / size
        rms = np.sqrt(sum((w**2).sum() for w in both) / size)
        values.append(-mean / rms if rms != 0 else -1.0)
    return np.array(values)


@criterion("frequency", needs=["statistics"], source="REAP's expert_frequency; MC-SMoE; arXiv 2404.05089")
def frequency(pretrained: Any, router: Any, experts: Any, statistics: LayerStatistics) -> np.ndarray:
    """|X_e|: how many tokens went to the expert."""
    return statistics.count


@criterion("gate-mass", needs=["statistics"], source="REAP's weighted_expert_frequency_sum")
def gate_mass(pretrained: Any, router: Any, experts: Any, statistics: LayerStatistics) -> np.ndarray:
    """Sum over X_e of g_e(x): the gates with which the layer weighs the expert's outputs."""
    return statistics.gate_sum


@criterion("activation-sum", needs=["statistics"], source="REAP's ean_sum; MC-Suite, arXiv 2504.05586")
def activation_sum(pretrained: Any, router: Any, experts: Any, statistics: LayerStatistics) -> np.ndarray:
    """Sum over X_e of ||f_e(x)||, f_e the output before the gate."""
    return statistics.norm_sum


@criterion("activation-mean", needs=["statistics"], source="REAP's ean_mean; MAN, arXiv 2606.15716")
def activation_mean(pretrained: Any, router: Any, experts: Any, statistics: LayerStatistics) -> np.ndarray:
    """Mean over X_e of ||f_e(x)||; 0 where no token came."""
    return _mean(statistics.norm_sum, statistics.count)


@criterion("weighted-activation", needs=["statistics"], source="REAP's weighted_ean_sum; EASY-EP, 2504.06792")
def weighted_activation(
    pretrained: Any, router: Any, experts: Any, statistics: LayerStatistics
) -> np.ndarray:
    """Sum over X_e of g_e(x) ||f_e(x)||; EASY-EP weighs this by how much the layer turns the token."""
    return statistics.weighted_norm_sum


@criterion("reap", needs=["statistics"], source="CerebrasResearch/reap src/reap/pruning_metrics.py")
def reap(pretrained: Any, router: Any, experts: Any, statistics: LayerStatistics) -> np.ndarray:
    """Mean over X_e of g_e(x) ||f_e(x)||; 0 where no token came.

    g is the weight that the layer itself gives. Since March 2026 REAP's code can divide the gates of a token
    by their sum first; to have that, gather the statistics from a network whose gates are renormalised.
    """
    return _mean(statistics.weighted_norm_sum, statistics.count)


@criterion("random", seeded=True, source="nowazrabbani/MoE_Pruning (random)")
def random(pretrained: Any, router: Any, experts: Any, statistics: Any, *, seed: Seed) -> np.ndarray:
    """Independent uniform numbers in [0, 1).

    Their order is the permutation that numpy's default generator draws, layer after layer, as in the released
    code with the same seed.
    """
    rng = generator(seed)
    # the sizes come from a child, so that they take nothing from the stream of permutations
    sizes = np.sort(rng.spawn(1)[0].random(experts.experts))
    values = np.empty(experts.experts)
    values[rng.permutation(experts.experts)] = sizes
    return values


criterion(
    "reconstruction",
    needs=["statistics"],
    source="NAEE: Lucky-Lance/Expert_Sparsity model/wrapper.py",
    subset=True,
)(reconstruction)


def _identity(function: Callable[..., Any]) -> tuple[Any, Any]:
    name = getattr(function, "__qualname__", None)
    return getattr(function, "__module__", None), name if name and "<lambda>" not in name else id(function)


def _norms(kernel: np.ndarray) -> np.ndarray:
    return np.linalg.norm(kernel, axis=0)


def _matrices(experts: ExpertWeights) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """W0 and W1 of one expert after another, in float64."""
    for kernel_in, kernel_out in zip(experts.kernel_in, experts.kernel_out, strict=True):
        yield kernel_in.astype(np.float64), kernel_out.astype(np.float64)


def _stable_rank(w: np.ndarray) -> float:
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    # its largest eigenvalue is s_1^2; this costs a fraction of all singular values of w
    largest = np.linalg.eigvalsh(gram)[-1]
    return float(np.trace(gram) / largest) if largest > 0 else 0.0


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)
