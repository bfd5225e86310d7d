"""Where each method's hidden nodes come from, as networks ready to be fitted."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from flax import nnx
from sklearn.kernel_approximation import RBFSampler
from sklearn.metrics import pairwise_distances

from qrt_tn import QuantumRidgeletTransform, Ridgelet, RidgeNodes, filter_nodes, states, uniform_nodes
from qrt_tn.models import CosineNetwork, DenseNetwork, RidgeNetwork
from qrt_tn.models.shallow import ShallowNetwork
from qrt_tn.studies.experiments.folds import Fold
from qrt_tn.studies.experiments.grid import GridConfig
from qrt_tn.studies.parallel import side_by_side

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # tried for random features, in units of the median heuristic


@dataclass(frozen=True)
class Setting:
    """What the validation points choose for a method; None where it has no such choice."""

    activation: str | None = None
    smoothing: float | None = None
    bandwidth: float | None = None


class Sources:
    """Draws the hidden nodes of every method for the folds of one run.

    States are built once for each fold and width, side by side on the machine's cores, and kept.
    """

    def __init__(self, folds: list[Fold], config: GridConfig) -> None:
        self.folds = folds
        self.config = config
        self._smoothed: dict[tuple[int, float], states.MPSState] = {}
        self._exact: dict[int, states.State] = {}

    def settings(self, method: str) -> list[Setting]:
        """The settings of a method for the validation points to choose from."""
        if method in ("qrt-smoothed", "filter"):
            return [Setting(a, w) for a in self.config.activations for w in self.config.smoothings]
        if method in ("qrt-unsmoothed", "uniform"):
            # they know nothing between the training points with any activation
            return [Setting(self.config.activations[0])]
        return [Setting(bandwidth=b) for b in BANDWIDTHS] if method == "random-features" else [Setting()]

    def build_states(self, widths: tuple[float, ...], tolerance: float, done: Callable[[], None]) -> None:
        """Build the smoothed states of all folds at these widths, calling `done` after each."""
        wanted = [(fold, width) for width in widths for fold in self.folds]
        built = side_by_side([partial(self._build, fold, width, tolerance) for fold, width in wanted], done)
        for (fold, width), state in zip(wanted, built, strict=True):
            self._smoothed[fold.seed, width] = state

    def _build(self, fold: Fold, width: float, tolerance: float) -> states.MPSState:
        state = states.from_samples(
            fold.grid[fold.split.train],
            fold.state_targets,
            self.config.modulus,
            smoothing=width,
            tolerance=tolerance,
            backend="auto" if self.config.backend in ("auto", "cuquantum") else self.config.backend,
        )
        assert isinstance(state, states.MPSState)
        return state

    def exact(self, fold: Fold) -> states.State:
        """The state of a fold's training points as they are, made when first asked for."""
        if fold.seed not in self._exact:
            self._exact[fold.seed] = states.from_samples(
                fold.grid[fold.split.train], fold.state_targets, self.config.modulus
            )
        return self._exact[fold.seed]

    def smoothed(self, fold: Fold, width: float) -> states.MPSState:
        """A state that `build_states` made."""
        return self._smoothed[fold.seed, width]

    def nodes(self, method: str, fold: Fold, setting: Setting, count: int, stream: int) -> RidgeNodes:
        """Draw ridge nodes; `stream` sets apart the draws of one fold for different purposes."""
        rng = np.random.default_rng([fold.seed, stream])
        ridgelet = self.ridgelet(setting)
        if method == "uniform":
            return uniform_nodes(count, fold.grid.shape[1], self.config.modulus, rng)
        if method == "filter":
            return filter_nodes(count, fold.grid.shape[1], ridgelet, setting.smoothing, rng)
        return self.transform(fold, setting).sample(count, rng)

    def transform(self, fold: Fold, setting: Setting) -> QuantumRidgeletTransform:
        """The transform of a fold's state: smoothed at the setting's width, or exact where it has none."""
        state = self.exact(fold) if setting.smoothing is None else self.smoothed(fold, setting.smoothing)
        return QuantumRidgeletTransform(state, self.ridgelet(setting), self.config.backend)

    def ridgelet(self, setting: Setting) -> Ridgelet:
        """The setting's ridgelet."""
        assert setting.activation is not None
        return Ridgelet(setting.activation, self.config.modulus)

    def network(self, method: str, fold: Fold, setting: Setting, count: int, stream: int) -> ShallowNetwork:
        """A network of `count` hidden nodes of a method, its output weights not yet fitted."""
        rngs = nnx.Rngs(1000 * fold.seed + stream)
        if method == "dense":
            return DenseNetwork(fold.scaled.shape[1], count, fold.outputs, rngs=rngs)
        if method == "random-features":
            assert setting.bandwidth is not None
            gamma = setting.bandwidth * _median_gamma(fold)
            seed = 1000 * fold.seed + stream
            sampler = RBFSampler(gamma=gamma, n_components=count, random_state=seed).fit(fold.scaled)
            return CosineNetwork.from_sampler(sampler, fold.outputs, rngs=rngs)
        return self.ridge_network(fold, setting, self.nodes(method, fold, setting, count, stream), stream)

    def ridge_network(self, fold: Fold, setting: Setting, nodes: RidgeNodes, stream: int) -> RidgeNetwork:
        """The network of drawn nodes, its output weights not yet fitted."""
        rngs = nnx.Rngs(1000 * fold.seed + stream)
        return RidgeNetwork(nodes, self.ridgelet(setting), fold.outputs, rngs=rngs)


def inputs(network: ShallowNetwork, fold: Fold) -> np.ndarray:
    """All points as a network takes them: on the grid for ridge nodes, standardised for the others."""
    return fold.grid if isinstance(network, RidgeNetwork) else fold.scaled


def _median_gamma(fold: Fold) -> float:
    """The gamma of exp(-gamma |x - y|^2) at the median distance of training points."""
    some = fold.scaled[fold.split.train[:500]]
    squares = pairwise_distances(some, metric="sqeuclidean")
    return 0.5 / float(np.median(squares[squares > 0]))
