"""Hidden nodes from a tempered transform: exact where it can be, annealed where it cannot."""

import math
from typing import Any

import numpy as np

from qrt_tn.engine.arguments import Seed, as_array, check_whole, generator, is_real
from qrt_tn.engine.drawing import draw, draw_running
from qrt_tn.engine.progress import Progress, shown
from qrt_tn.field import inverses
from qrt_tn.ridgelet import Ridgelet
from qrt_tn.states.base import State, check_count
from qrt_tn.states.filters import Filter, checked_filter
from qrt_tn.states.mps import MPSState
from qrt_tn.states.samples import SampleState
from qrt_tn.states.smoothing import SmoothedState
from qrt_tn.tempered.annealing import anneal
from qrt_tn.tempered.chain import ChainConditionals
from qrt_tn.tempered.conditionals import Conditionals, StateConditionals, choose, contracted
from qrt_tn.tempered.convolution import draw_convolved
from qrt_tn.tempered.nodes import TemperedNodes
from qrt_tn.tempered.points import PointConditionals
from qrt_tn.transform import QuantumRidgeletTransform

ENUMERATED = 2**14  # frequencies up to which the law is written down and drawn from
_ENUMERATED_IN_ALL = 2**22  # the same times the number of contrasts
_NEGLIGIBLE = -300.0  # log tau^2 below which a value has no part in the law
_POPULATION = 64  # chains that resample among themselves; fewer nodes get walkers of their own
_TRIED_TOGETHER = 2**14  # draws that are accepted or not at a time
MOST_COMPRESSED = 4.0  # the inverse temperature up to which compressed data stand for their points
_TRIES = 200  # rounds of rejection before a contrast is taken to leave nothing


def sample_tempered(
    transform: QuantumRidgeletTransform,
    n: int,
    beta: float,
    *,
    seed: Seed = 0,
    contrast: Any = None,
    filter: Any = None,
    sweeps: int = 2,
    walkers: int = 16,
    max_bond: int | None = None,
    phase: bool | None = None,
    progress: Progress | None = None,
) -> TemperedNodes:
    """Draw nodes (a, b) from the ridgelet transform, tempered: u ~ pi(u) prop. to |z(u)|^(2 beta) tau(u)^2.

    z = sum_c g_c z_c is the spectrum of one contrast g of the components of f, without its smoothing filter
    tau, which is a prior and is not tempered: of a smoothed state f^ = z tau the law has the logarithm
    beta log|f^|^2 + (1 - beta) log tau^2. With a scalar f, beta = 1 and phase=False it is the law of
    `QuantumRidgeletTransform.sample`. Then a = v^{-1} u with v ~ |r^(v)|^2, as there.

    Compression leaves out what is small in f^, and over tau and to a power that would lead: above beta = 4,
    and below it where that is cheaper, smoothed data go by their points.

    Draws are exact and independent where P^D is small enough to write the law down. Elsewhere they are
    annealed: sequential Monte Carlo from exact draws (at beta = 1, or of the prior where a filter is given),
    with exact single-site conditionals between temperatures. Their weights, effective sample size and share
    of moves are told; none of them proves that every mode was found.

    Args:
        transform: of any kind of state. Sweeps run on the host.
        n: the number of nodes N.
        beta: the inverse temperature, at least 1.
        seed: an int or a NumPy generator.
        contrast: g, shape (C,) for all nodes, or (N, C), one a node. Left out, g ~ N(0, I_C) for every node
            of a vector output. Given each node's g, u follows the law of that g.
        filter: tau for a state that has none, as `smoothing` of `states.from_samples`; f^ is then z.
        sweeps: Gibbs sweeps at every temperature.
        walkers: chains for every node that has a contrast of its own; one of them becomes the node.
        max_bond: for a matrix product state and one contrast: begin at beta = 2 or 4, from the
            self-convolution of f compressed to this bond, whose exact draws get weights.
        phase: take b at the maximum of |R[f](a, .)| over the circle rather than draw it; only for the cosine,
            where it is the default.
        progress: called with (done, of how many); left out, a bar appears after two seconds in a terminal.

    Returns:
        The nodes with their weights and diagnostics.

    Raises:
        ValueError: an argument out of range or of another shape, a filter for a state that has one, a phase
            for another activation, or a contrast that leaves nothing of the state.

    Example:
        >>> import numpy as np
        >>> from qrt_tn import QuantumRidgeletTransform, Ridgelet, sample_tempered, states
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.integers(17, size=(200, 10)), rng.standard_normal(200)
        >>> qrt = QuantumRidgeletTransform(states.from_samples(x, y, 31), Ridgelet("cosine", 31))
        >>> nodes = sample_tempered(qrt, 50, beta=4.0, filter=0.8, seed=1)
        >>> nodes.a.shape, bool((nodes.b < 31).all())
        ((50, 10), True)
    """
    if not isinstance(transform, QuantumRidgeletTransform):
        raise ValueError(f"transform is a {type(transform).__name__}; give a QuantumRidgeletTransform")
    count, rng = check_count(n, "the number of nodes"), generator(seed)
    if not is_real(beta) or beta < 1:
        raise ValueError(f"beta is {beta!r}; give a finite number of at least 1")
    check_whole("sweeps", sweeps)
    check_whole("walkers", walkers, 2)
    state, ridgelet = transform.state, transform.ridgelet
    cosine = is_cosine(ridgelet)
    if phase and not cosine:
        raise ValueError(
            f"phase is {phase!r}, but the activation is {ridgelet.name!r}; only a cosine has one"
        )
    contrasts = _contrasts(state, contrast, count, rng)
    prior = _prior(state, filter)
    law = _law(state, prior, float(beta))
    if max_bond is not None:
        check_whole("max_bond", max_bond)
        if not isinstance(state, MPSState) or len(contrasts) > 1:
            raise ValueError(
                f"max_bond is {max_bond}, for one contrast of a matrix product state only; leave it out"
            )
    # nodes of one contrast resample among each other where they are many; each of the others has walkers
    population = len(contrasts) == 1 and (count >= _POPULATION or max_bond is not None)
    size = count if population else walkers
    if not population:
        contrasts = np.broadcast_to(contrasts, (count, state.outputs))
    with shown(progress, 1000, "steps") as tell:
        values = math.prod(len(support) for support in law.supports)
        if values <= ENUMERATED and values * len(contrasts) <= _ENUMERATED_IN_ALL:
            u, log_weight, share, moved = _enumerated(law, contrasts, float(beta), count, rng)
        else:
            own = np.repeat(contrasts, size, axis=0)
            if isinstance(state, MPSState) and max_bond is not None and beta >= 2:
                start = 4 if beta >= 4 else 2
                u, log_probability = draw_convolved(
                    _chain(state, prior), contrasts[0], start, max_bond, count, rng
                )
                log_weight = start * law.log_sizes(u, own) + law.log_prior(u) - log_probability
            else:
                u, log_weight, start = _start(state, law, None if filter is None else prior, own, rng)
            shaped = log_weight.reshape(len(contrasts), size)
            u, log_weight, share, moved = anneal(
                law, u, shaped, contrasts, (start, float(beta)), sweeps, rng, tell
            )
            if not population:
                chosen = np.arange(count) * size + choose(log_weight, rng.random(count))
                u, log_weight = u[chosen], np.zeros((count, 1))
    logs = log_weight.ravel() - np.log(np.exp(log_weight - log_weight.max()).mean()) - log_weight.max()
    a, b = _nodes(
        transform,
        law,
        u,
        np.broadcast_to(contrasts, (count, state.outputs)),
        phase is not False and cosine,
        rng,
    )
    return TemperedNodes(a, b, logs, float(beta), count * share, moved, state.modulus)


def is_cosine(ridgelet: Ridgelet) -> bool:
    """Whether the activation is the cosine, and analysed with itself."""
    cosine = Ridgelet("cosine", ridgelet.modulus)
    return all(
        np.allclose(getattr(ridgelet, name), getattr(cosine, name), atol=1e-12)
        for name in ("values", "activation")
    )


def _contrasts(state: State, contrast: Any, count: int, rng: np.random.Generator) -> np.ndarray:
    """One contrast for all, (1, C), or one a node, (N, C)."""
    outputs = state.outputs
    if contrast is None:
        return rng.standard_normal((count, outputs)) if outputs > 1 else np.ones((1, 1))
    given = as_array(contrast, "contrast")
    if given.shape not in ((outputs,), (count, outputs)) or given.dtype.kind not in "biuf":
        raise ValueError(
            f"contrast has shape {given.shape} and dtype {given.dtype}; give real numbers of shape "
            f"({outputs},) or ({count}, {outputs})"
        )
    given = np.atleast_2d(given.astype(np.float64))
    bad = ~np.isfinite(given).all(axis=1) | ~given.any(axis=1)
    if bad.any():
        raise ValueError(f"contrast holds {given[bad][0]}; every one must be finite and not 0")
    return given / np.abs(given).max(axis=1, keepdims=True)  # the law does not see its size


def _prior(state: State, given: Any) -> Filter | None:
    """The filter of the law: the state's own, or the one that is given."""
    if isinstance(state, SmoothedState):
        if given is not None:
            raise ValueError(f"filter is {given!r}, but the state is smoothed already; leave it out")
        return checked_filter(state.smoothing, state.dim, state.modulus)
    return None if given is None else checked_filter(given, state.dim, state.modulus)


def _law(state: State, prior: Filter | None, beta: float) -> Conditionals:
    """What sweeps of this state go by: its points or its cores, whichever is cheaper, or itself.

    Compression drops what is small beside the norm of f^ = z tau. Over tau, and to the power beta, that would
    lead: above beta = 4, smoothed data go by their points.
    """
    modulus, log_filter = state.modulus, _log_filter(state, prior)
    supports = [np.flatnonzero(np.isfinite(row)) for row in log_filter]
    kept = [row[support] for row, support in zip(log_filter, supports, strict=True)]
    if isinstance(state, SampleState):
        return PointConditionals(state.points, state.coefficients, modulus, supports, kept)
    if isinstance(state, MPSState):
        chain = _chain(state, prior)
        if isinstance(state, SmoothedState):
            points = PointConditionals(state.points, state.coefficients, modulus, supports, kept)
            if beta > MOST_COMPRESSED or points.sweep_cost < chain.sweep_cost:
                return points
        return chain
    return StateConditionals(state, supports, kept)


def _log_filter(state: State, prior: Filter | None) -> np.ndarray:
    """Log tau_i(u_i)^2 over its peak, (D, P); -inf where it has no part in the law."""
    if prior is None:
        return np.zeros((state.dim, state.modulus))
    return prior.log_weights(_NEGLIGIBLE)[prior.rows]


def _chain(state: MPSState, prior: Filter | None) -> ChainConditionals:
    return ChainConditionals(state, _log_filter(state, prior), isinstance(state, SmoothedState))


def _enumerated(
    law: Conditionals, contrasts: np.ndarray, beta: float, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Independent draws from the law, written down at every frequency."""
    grid = np.stack([part.ravel() for part in np.meshgrid(*law.supports, indexing="ij")], axis=1)
    prior = law.log_prior(grid)
    u = np.empty((count, law.dim), dtype=np.int64)
    for number, contrast in enumerate(contrasts):
        logs = beta * law.log_sizes(grid, np.broadcast_to(contrast, (len(grid), len(contrast)))) + prior
        if np.isneginf(logs).all():
            raise ValueError(f"contrast {contrast} leaves nothing of the state; give another")
        rows = slice(None) if len(contrasts) == 1 else slice(number, number + 1)
        u[rows] = grid[draw_running(np.cumsum(np.exp(logs - logs.max())), rng.random(len(u[rows])))]
    return u, np.zeros((1, count)), 1.0, 0.0


def _start(
    state: State,
    law: Conditionals,
    given: Filter | None,
    contrasts: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Exact draws to begin with, the log-weights that make them draws from the law, and its beta."""
    if given is not None:
        u = given.sample(len(contrasts), rng)
        outside = ~np.isfinite(law.log_prior(u))
        u[outside] = 0  # tau^2 < 1e-130
        return u, np.zeros(len(u)), 0
    u = _exact(state, contrasts, rng)
    log_weight = np.zeros(len(u))
    if isinstance(state, SmoothedState) and isinstance(law, PointConditionals):
        # drawn from what is held, corrected to the points
        log_weight = law.log_sizes(u, contrasts) + law.log_prior(u) - contracted(state, u, contrasts)[1]
    return u, log_weight, 1


def _exact(state: State, contrasts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One draw u ~ |sum_c g_c f^_c(u)|^2 for each g, by rejection from sum_c |f^_c(u)|^2."""
    if state.outputs == 1:
        return state.sample_spectrum(len(contrasts), rng)
    most = max(1, _TRIED_TOGETHER // (2 * state.outputs))
    parts = [contrasts[start : start + most] for start in range(0, len(contrasts), most)]
    return np.concatenate([_accepted(state, part, rng) for part in parts])


def _accepted(state: State, contrasts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    u = np.empty((len(contrasts), state.dim), dtype=np.int64)
    waiting = np.arange(len(contrasts))
    for _ in range(_TRIES):
        tries = np.repeat(waiting, 2 * state.outputs)
        drawn = state.sample_spectrum(len(tries), rng)
        values = np.asarray(state.spectrum(drawn).rescaled(axis=1).mantissa, dtype=np.complex128)
        own = contrasts[tries]
        bound = (np.abs(values) ** 2).sum(axis=1) * (own**2).sum(axis=1)
        taken = rng.random(len(tries)) * bound < np.abs((values * own).sum(axis=1)) ** 2
        found, first = np.unique(tries[taken], return_index=True)
        u[found] = drawn[taken][first]
        waiting = np.setdiff1d(waiting, found)
        if len(waiting) == 0:
            return u
    raise ValueError(
        f"contrast {contrasts[waiting[0]]} leaves nothing of the state (none of {_TRIES * 2 * state.outputs} "
        "draws); give another"
    )


def _spectrum(state: State, law: Conditionals, u: np.ndarray, contrasts: np.ndarray) -> np.ndarray:
    """z(u) of each row with its own contrast, up to a positive factor, from what the law goes by."""
    if isinstance(law, PointConditionals):
        return law.spectrum(u, contrasts)
    return contracted(state, u, contrasts)[0]


def _nodes(
    transform: QuantumRidgeletTransform,
    law: Conditionals,
    u: np.ndarray,
    contrasts: np.ndarray,
    phase: bool,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A and b of frequencies u: b at the phase of z, or v and b drawn as the exact sampler draws them."""
    state, ridgelet, modulus = transform.state, transform.ridgelet, transform.modulus
    if phase:
        # R[f](u, b) prop. to z(u) e^{i t} + z(-u) e^{-i t}, t = 2 pi b / P; z(-u) is conj z(u) for real f
        ahead, behind = (_spectrum(state, law, signed, contrasts) for signed in (u, -u % modulus))
        t = -np.angle(ahead * np.where(behind == 0, 1, behind).conj()) / 2
        t = np.where((ahead * np.exp(1j * t)).real < 0, t + np.pi, t)
        return u, np.mod(t * modulus / (2 * np.pi), modulus) % modulus
    v = draw(np.broadcast_to(np.abs(ridgelet.spectrum) ** 2, (len(u), modulus)), rng.random(len(u)))
    a = (inverses(modulus)[v][:, None] * u) % modulus
    values = np.asarray(state.profiles(a, ridgelet).mantissa)  # (N, P, C), one log-scale for each a
    weights = np.abs((values * contrasts[:, None, :]).sum(axis=2)) ** 2
    return a, draw(weights, rng.random(len(u))).astype(np.float64)
