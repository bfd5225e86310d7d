"""The samplers of the risk experiment alike: settings to choose from, states to make, networks to draw."""

from collections.abc import Callable
from typing import Protocol

from qrt_tn import QuantumRidgeletTransform
from qrt_tn.models.shallow import ShallowNetwork
from qrt_tn.studies.experiments.folds import Fold
from qrt_tn.studies.experiments.grid import GridConfig
from qrt_tn.studies.experiments.lottery.shallow_config import ShallowConfig
from qrt_tn.studies.experiments.lottery.shallow_sources import TRANSFORMS, ShallowSources, ridge_network
from qrt_tn.studies.experiments.risk.settings import Risk
from qrt_tn.studies.experiments.sources import Setting, Sources

ACTIVATIONS = ("cosine", "triangle", "gaussian")
WIDTHS = (0.4, 0.5, 0.6, 0.8)  # of filters, for the validation points to choose from
_POOL = 4  # candidates of leverage scores for each node drawn from them
_RIDGE = ("qrt-smoothed", "qrt-unsmoothed", "filter", "uniform")
_SHALLOW = ("qrt-teacher", "leverage")


class Sampler(Protocol):
    """Where one fold's hidden nodes come from."""

    def settings(self) -> list[Setting]:
        """What the validation points choose from."""

    def prepare(self, setting: Setting) -> None:
        """Make the state or pool that a setting's nodes are drawn from, if there is one."""

    def networks(self, setting: Setting, count: int, draws: int, stream: int) -> list[ShallowNetwork]:
        """Networks of `count` nodes each, their output weights not yet fitted; `stream` sets draws apart."""

    def transform(self, setting: Setting) -> QuantumRidgeletTransform | None:
        """The transform that nodes are drawn from; None where there is none."""


def make_sampler(settings: Risk, config: GridConfig, fold: Fold, most: int) -> Sampler:
    """The sampler that a point names.

    Args:
        settings: of the point.
        config: from `grid_config`.
        fold: the data.
        most: nodes that are drawn at once, at most.
    """
    if settings.sampler in _SHALLOW:
        return _Shallow(settings.sampler, config, fold, most)
    dense = settings.sampler in ("random-relu", "dense-trained")
    return _Plain("dense" if dense else settings.sampler, config, fold)


def grid_config(settings: Risk) -> GridConfig:
    """The settings that make folds and states.

    Args:
        settings: of the point.

    Raises:
        ValueError: an unknown activation, and whatever else `GridConfig` refuses.
    """
    return GridConfig(
        levels=settings.levels,
        modulus=settings.modulus,
        activations=ACTIVATIONS if settings.activation == "auto" else (settings.activation,),
        smoothings=WIDTHS if settings.smoothing is None else (settings.smoothing,),
        tolerance=settings.tolerance,
        seeds=1,
        backend=settings.backend,
    )


class _Plain:
    """Nodes of the transform, its filter, or none of either."""

    def __init__(self, method: str, config: GridConfig, fold: Fold) -> None:
        self._method, self._config, self._fold = method, config, fold
        self._sources = Sources([fold], config)

    def settings(self) -> list[Setting]:
        return self._sources.settings(self._method)

    def prepare(self, setting: Setting) -> None:
        if self._method == "qrt-smoothed":
            assert setting.smoothing is not None
            self._sources.build_states((setting.smoothing,), self._config.tolerance, _nothing)
        elif self._method == "qrt-unsmoothed":
            self._sources.exact(self._fold)

    def networks(self, setting: Setting, count: int, draws: int, stream: int) -> list[ShallowNetwork]:
        sources, fold = self._sources, self._fold
        if self._method not in _RIDGE:
            own = (
                sources.network(self._method, fold, setting, count, 100 * k + stream) for k in range(draws)
            )
            return list(own)
        nodes = sources.nodes(self._method, fold, setting, count * draws, stream)
        parts = (nodes[k * count : (k + 1) * count] for k in range(draws))
        return [sources.ridge_network(fold, setting, part, stream) for part in parts]

    def transform(self, setting: Setting) -> QuantumRidgeletTransform | None:
        if not self._method.startswith("qrt-"):
            return None
        return self._sources.transform(self._fold, setting)


class _Shallow:
    """Nodes as the comparison with pruning draws them: from a teacher's transform, or by leverage scores."""

    def __init__(self, method: str, config: GridConfig, fold: Fold, most: int) -> None:
        self._method, self._config, self._fold, self._most = method, config, fold, most
        self._sources: dict[Setting, ShallowSources] = {}

    def settings(self) -> list[Setting]:
        return [Setting(a, w) for a in self._config.activations for w in self._config.smoothings]

    def prepare(self, setting: Setting) -> None:
        assert setting.activation is not None
        assert setting.smoothing is not None
        config = ShallowConfig(
            quantiser=self._config.quantiser,
            levels=self._config.levels,
            modulus=self._config.modulus,
            activation=setting.activation,
            smoothing=setting.smoothing,
            tolerance=self._config.tolerance,
            nodes=(self._most,),
            wide=2 * self._most,  # of networks that are pruned, which nobody asks for here
            pool=max(4096, _POOL * self._most),
            backend=self._config.backend,
        )
        self._sources[setting] = ShallowSources([self._fold], config, _Silent(), (self._method,))

    def networks(self, setting: Setting, count: int, draws: int, stream: int) -> list[ShallowNetwork]:
        sources = self._sources[setting]
        nodes = sources.draw(self._method, self._fold, count * draws, stream).nodes
        parts = (nodes[k * count : (k + 1) * count] for k in range(draws))
        return [ridge_network(part, self._fold, sources.config, stream) for part in parts]

    def transform(self, setting: Setting) -> QuantumRidgeletTransform | None:
        if self._method not in TRANSFORMS:
            return None
        return self._sources[setting].transform(self._method, self._fold)


class _Silent:
    """A stage that nobody watches."""

    def advance(self, steps: int = 1) -> None:
        del steps


_nothing: Callable[[], None] = _Silent().advance
