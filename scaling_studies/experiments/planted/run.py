"""One planted ridge: points of it are turned to nodes, and the nodes looked through for its direction."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.kernel_approximation import RBFSampler
from threadpoolctl import threadpool_limits

from qrt_tn import QuantumRidgeletTransform, Ridgelet, RidgeNodes, filter_nodes, states, uniform_nodes
from qrt_tn.baselines import filter_log_weights
from qrt_tn.models import select_ridge
from qrt_tn.studies.experiments.catalogue import Context
from qrt_tn.studies.experiments.planted.filtered import FilteredSamples, width_of
from qrt_tn.studies.experiments.planted.settings import Planted
from qrt_tn.studies.experiments.sources import BANDWIDTHS

VALIDATION, TEST = 500, 2000  # further points: to choose penalties, and to tell the risk
# the teacher's own activation, so that a node in its direction can be the teacher; it has v = 1 and -1 alone
ACTIVATION = "cosine"


@dataclass(frozen=True, eq=False)
class Problem:
    """A teacher and points of it.

    Attributes:
        direction: a*, int in 0..P-1, shape (D,).
        x: points for training, for validation and for the test, int64, shapes (M, D) each.
        y: the values there, the test's without noise.
    """

    direction: np.ndarray
    x: tuple[np.ndarray, ...]
    y: tuple[np.ndarray, ...]


def make_problem(settings: Planted, rng: np.random.Generator) -> Problem:
    """Draw a teacher and points."""
    dim, modulus = settings.dim, settings.modulus
    direction = np.zeros(dim, dtype=np.int64)
    places = rng.choice(dim, size=settings.support, replace=False)
    direction[places] = rng.choice([1, modulus - 1], size=settings.support)
    shift = int(rng.integers(modulus))
    points, values = [], []
    for count, noise in ((TEST, 0.0), (VALIDATION, settings.noise), (settings.points, settings.noise)):
        x = rng.integers(modulus, size=(count, dim))
        angle = 2 * np.pi * ((x @ direction - shift) % modulus) / modulus
        points.append(x)
        values.append(np.cos(angle) + noise * rng.standard_normal(count))
    return Problem(direction, tuple(points[::-1]), tuple(values[::-1]))


def measure(settings: Planted, seed: int, context: Context) -> Mapping[str, float | int | None]:
    """Draw nodes from points of a planted ridge, and see how many have found it, and what they are worth.

    Args:
        settings: of the point.
        seed: of teacher, points and nodes.
        context: of the point; linear algebra keeps to its cores.
    """
    with threadpool_limits(context.cores):
        return _measured(settings, np.random.default_rng(seed))


def _measured(settings: Planted, rng: np.random.Generator) -> Mapping[str, float | int | None]:
    problem = make_problem(settings, rng)
    ridgelet = Ridgelet(ACTIVATION, settings.modulus)
    width = width_of(settings.typical / settings.dim, settings.modulus)
    peak = np.stack([problem.direction, -problem.direction % settings.modulus])
    found: dict[str, float | int | None] = {
        "peak_probability": None,
        "estimate": None,
        "hit_rate": None,
        "width": width if settings.sampler in ("qrt", "filter") else None,
        "state_seconds": None,
    }
    if settings.sampler == "random-features":
        start = time.perf_counter()
        risk = _random_features_risk(problem, settings, rng)
        return {**found, "test_risk": risk, "draw_seconds": None, "fit_seconds": time.perf_counter() - start}
    started = time.perf_counter()
    if settings.sampler in ("qrt", "qrt-unsmoothed"):
        values = problem.y[0] - problem.y[0].mean()
        state: states.State
        if settings.sampler == "qrt":
            state = FilteredSamples(problem.x[0], values, settings.modulus, width)
        else:
            state = states.from_samples(problem.x[0], values, settings.modulus, backend="numpy")
        found["state_seconds"] = time.perf_counter() - started
        transform = QuantumRidgeletTransform(state, ridgelet, "numpy")
        started = time.perf_counter()
        nodes = transform.sample(settings.nodes, rng)
        found["draw_seconds"] = time.perf_counter() - started
        logs = transform.log_weights(peak)
    elif settings.sampler == "filter":
        nodes = filter_nodes(settings.nodes, settings.dim, ridgelet, width, rng)
        found["draw_seconds"] = time.perf_counter() - started
        logs = filter_log_weights(peak, ridgelet, width)
    else:
        nodes = uniform_nodes(settings.nodes, settings.dim, settings.modulus, rng)
        found["draw_seconds"] = time.perf_counter() - started
        logs = np.full(2, -settings.dim * math.log(settings.modulus))
    found["peak_probability"] = float(np.exp(logs).sum())
    if settings.sampler == "qrt":
        found["estimate"] = peak_estimate(
            float(np.exp(filter_log_weights(peak, ridgelet, width)).sum()), settings.points, settings.noise
        )
    hits = (nodes.a[:, None, :] == peak[None, :, :]).all(axis=2).any(axis=1)
    found["hit_rate"] = float(hits.mean())
    started = time.perf_counter()
    found["test_risk"] = relative_risk(problem, [features(x, nodes, ridgelet) for x in problem.x])[1]
    found["fit_seconds"] = time.perf_counter() - started
    return found


def peak_estimate(share: float, points: int, noise: float) -> float:
    """How probable the planted direction is, by the size of the noise that M random points make.

    |sum_m y_m omega^{-u.x_m}|^2 is M^2 / 4 at u = +-a*, and on average M (1/2 + sigma^2) elsewhere, since y
    has the variance 1/2 + sigma^2 and phases of independent points add up at random. Weighed by the filter,
    which gives +-a* the share q,

        p = q M / (q M + 2 + 4 sigma^2),

    one half at M = (2 + 4 sigma^2) / q points.

    Args:
        share: q, the filter's probability of +-a*.
        points: M.
        noise: sigma.
    """
    return share * points / (share * points + 2 + 4 * noise**2)


def features(x: np.ndarray, nodes: RidgeNodes, ridgelet: Ridgelet) -> np.ndarray:
    """g((a.x - b) mod P) over its deviation on Z_P, shape (M, N)."""
    # products of centred weights in floating point: exact far below 2^53, and quick
    weights = np.where(nodes.a > nodes.modulus // 2, nodes.a - nodes.modulus, nodes.a)
    products = (x.astype(np.float64) @ weights.T.astype(np.float64)).astype(np.int64)
    table = ridgelet.activation / ridgelet.activation.std()
    return np.asarray(table[(products - nodes.b) % nodes.modulus])


def relative_risk(problem: Problem, found: list[np.ndarray]) -> tuple[float, float]:
    """Squared error over variance of a network of these features, at validation and test points.

    Ridge regression on the training points; the validation points choose the penalty.

    Args:
        problem: the points.
        found: features for training, validation and test, shapes (M, N) each.
    """
    y = problem.y
    kernel, bias, _ = select_ridge(found[0], y[0], found[1], y[1])
    risks = [np.mean((y[k] - (found[k] @ kernel + bias)[:, 0]) ** 2) / np.var(y[k]) for k in (1, 2)]
    return float(risks[0]), float(risks[1])


def _random_features_risk(problem: Problem, settings: Planted, rng: np.random.Generator) -> float:
    """The same of Gaussian random features, their bandwidth chosen on the validation points."""
    mean, deviation = problem.x[0].mean(), problem.x[0].std()
    scaled = [(x - mean) / deviation for x in problem.x]
    seed = int(rng.integers(2**31))
    risks = []
    for bandwidth in BANDWIDTHS:
        # |x - x'|^2 is 2 D on average: the median heuristic
        sampler = RBFSampler(
            gamma=bandwidth / (4 * settings.dim), n_components=settings.nodes, random_state=seed
        ).fit(scaled[0])
        unit = math.sqrt(settings.nodes)  # features of variance about 1, as the penalties expect
        risks.append(relative_risk(problem, [unit * sampler.transform(x) for x in scaled]))
    return min(risks)[1]
