"""Quantise real features to the levels 0 .. L-1 of Z_P, with a guard band above them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted, validate_data

from qrt_tn.engine.arguments import check_whole, is_real, refuse_partial
from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.field import check_grid, check_prime

FORMAT = "qrt-tn.quantizer 3"
KINDS = ("uniform", "quantile", "pca-quantile")
SCOPES = ("feature", "global")
_NEGLIGIBLE_VARIANCE = 1e-24  # of the largest; a principal component below is rounding noise
_QUANTILES = 500  # knots of a map, at most
_FARTHEST = 1e15  # of a position; beyond, float64 has no digits left for a place on the circle
_LARGEST = 1e307  # of a value; differences stay within float64


class Quantizer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Maps real features to integer levels 0 .. L-1 inside Z_P: a scikit-learn transformer.

    Each feature has one continuous, increasing, piecewise linear map, `positions`, which takes the fitted
    range to 0 .. L-1; `transform` rounds it to levels. The numbers of Z_P above the levels stay free: this
    *guard band* makes the lowest frequencies of Z_P slow compared with the range of the data, so that
    functions of low frequency are smooth on it.

    Args:
        kind: "uniform" (one straight line), "quantile" (through up to 500 quantiles, so that about as many
            points fall on each level; a value that many points share stands in the middle of their ranks,
            the least and the largest at the ends) or "pca-quantile" (quantiles of principal components).
        levels: the number of levels L, 2 <= L <= P.
        modulus: the prime P.
        components: how many principal components to keep; only for "pca-quantile". Left out, as many
            as points and features allow.
        scope: "feature" (a map for each feature) or "global" (one map for all, as for the pixels of an
            image, which share a scale).
        trim: the share of points at either end that is left to the outermost levels, 0 <= trim < 0.5; only
            for "uniform". A feature with nothing between these two quantiles keeps its whole range.

    Attributes:
        knots_: values at equal steps of rank, ascending, shape (D, K), or (1, K) for the global scope.
        mean_, axes_: what PCA subtracts, shape (features,), and its axes, shape (D, features); or None.
        n_features_in_, feature_names_in_: the number of features, and their names where they had any.

    Example:
        >>> import numpy as np
        >>> x = np.array([[0.0, 10.0], [1.2, 30.0], [4.0, 20.0]])
        >>> quantizer = Quantizer(levels=5, modulus=11).fit(x)
        >>> quantizer.transform(x).tolist()
        [[0, 0], [1, 4], [4, 2]]
        >>> quantizer.positions([[5.0, 12.5]]).tolist()
        [[5.0, 0.5]]
        >>> quantizer.inverse_transform([[1, 3]]).tolist()
        [[1.0, 25.0]]
    """

    def __init__(
        self,
        kind: str = "uniform",
        levels: int = 17,
        modulus: int = 127,
        components: int | None = None,
        scope: str = "feature",
        trim: float = 0.0,
    ) -> None:
        self.kind, self.levels, self.modulus = kind, levels, modulus
        self.components, self.scope, self.trim = components, scope, trim

    def check(self) -> "Quantizer":
        """Check the settings, as `fit` does too, and return the quantiser itself.

        Raises:
            ValueError: unknown kind or scope, composite modulus, levels outside 2..P, components without
                PCA, or trim outside 0 <= trim < 0.5 or without "uniform".
        """
        for name, value, known in (("quantiser", self.kind, KINDS), ("scope", self.scope, SCOPES)):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
        check_whole("levels", self.levels, 2)
        if self.levels > check_prime(self.modulus):
            raise ValueError(f"levels is {self.levels}; it must lie in 2..{self.modulus} (the modulus)")
        if self.components is not None:
            check_whole("components", self.components)
        if not (is_real(self.trim) and 0 <= self.trim < 0.5):
            raise ValueError(f"trim is {self.trim!r}; give a number, 0 <= trim < 0.5")
        for name, kind in (("components", "pca-quantile"), ("trim", "uniform")):
            if getattr(self, name) and self.kind != kind:
                raise ValueError(f"{name} is {getattr(self, name)} for {self.kind!r}; only {kind!r} takes it")
        return self

    @property
    def guard_band(self) -> float:
        """P / L: how many times the field is wider than the levels in use; 1 means no guard band."""
        return self.modulus / self.levels

    @property
    def dim(self) -> int:
        """The number D of coordinates that `transform` returns."""
        check_is_fitted(self)
        return self._n_features_out

    def fit(self, X: Any, y: Any = None) -> "Quantizer":
        """Place the maps on points, real and of shape (M, features), and return the quantiser itself.

        Raises:
            ValueError: bad settings (see `check`); fewer than two points, not two-dimensional, not real, NaN,
                infinite or above 1e307; all points the same; fewer features or points than components.
        """
        self.check()
        points = self._points(X, reset=True)
        if (points == points[0]).all():
            raise ValueError("constant data: all points are the same, so there is nothing to quantise")
        self.mean_: np.ndarray | None = None
        self.axes_: np.ndarray | None = None
        if self.kind == "pca-quantile":
            self.mean_, self.axes_ = self._principal_axes(points)
        scores = self._scores(points)
        columns = scores.reshape(-1, 1) if self.scope == "global" else scores
        self.knots_ = np.stack([self._knots(column) for column in columns.T])
        self._n_features_out = scores.shape[1]
        return self

    def positions(self, X: Any) -> np.ndarray:
        """Where points (M, features) lie on the axis of the levels: float64 (M, D), not rounded nor clipped.

        The fitted range has 0 .. L-1; beyond it a map goes on at its mean slope. A constant feature is at 0.

        Raises:
            ValueError: not fitted, another number of features than fitted on, empty, NaN or infinite.
        """
        check_is_fitted(self)
        positions = self._scores(self._points(X, reset=False)).copy()
        for i, column in enumerate(positions.T):
            column[:] = _positions(column, self.knots_[i % len(self.knots_)], self.levels - 1)
        return np.clip(positions, -_FARTHEST, _FARTHEST)

    def transform(self, X: Any) -> np.ndarray:
        """The levels 0 .. L-1 of points (M, features): int64 (M, D), the positions rounded.

        Points outside the fitted range go to the nearest level.

        Raises:
            ValueError: as `positions`.
        """
        positions = self.positions(X)
        np.clip(positions, 0, self.levels - 1, out=positions)
        return np.rint(positions, out=positions).astype(np.int64)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """The points at levels (M, D): float64 (M, features), taken back through PCA where there is one.

        `transform` gives these levels again, if it gave them before; with PCA up to rounding.

        Raises:
            ValueError: not fitted, another shape, not integers, or outside 0 .. L-1.
        """
        check_is_fitted(self)
        levels = check_grid(X, self.levels, "levels", (None, self.dim))
        values = np.stack([_values(knots, self.levels - 1) for knots in self.knots_])
        points = values[np.arange(self.dim) % len(values), levels]
        return points if self.axes_ is None else points @ self.axes_ + self.mean_

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the coordinates: those of the features, or "quantizer0", ... after PCA."""
        check_is_fitted(self)
        names = super().get_feature_names_out(input_features)
        return names if self.axes_ is None else np.array([f"quantizer{i}" for i in range(self.dim)], object)

    def save(self, path: str | Path) -> None:
        """Write the fitted quantiser to a safetensors file; an existing file is replaced whole."""
        check_is_fitted(self)
        arrays = {"knots": self.knots_, "mean": self.mean_, "axes": self.axes_}
        tensors = {name: array for name, array in arrays.items() if array is not None}
        names = list(getattr(self, "feature_names_in_", ()))
        settings = self.get_params() | {"features": self.n_features_in_, "names": names}
        text = json.dumps(settings, default=lambda number: number.item())
        save_tensors(path, tensors, {"format": FORMAT, "settings": text})

    @classmethod
    def load(cls, path: str | Path) -> "Quantizer":
        """Read a quantiser from a file that `save` wrote; it transforms exactly as the saved one.

        Raises:
            ValueError: no such file, one of another kind, or one that was damaged or changed.
        """
        tensors, metadata = load_tensors(path, FORMAT)
        settings = json.loads(metadata["settings"])
        features, names = settings.pop("features"), settings.pop("names")
        new = cls(**settings)
        if names:
            new.feature_names_in_ = np.array(names, dtype=object)
        new.knots_, new.mean_, new.axes_ = tensors["knots"], tensors.get("mean"), tensors.get("axes")
        new.n_features_in_ = features
        new._n_features_out = features if new.axes_ is None else len(new.axes_)
        return new

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "knots_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # levels are int64 whatever comes
        return tags

    def _points(self, X: Any, *, reset: bool) -> np.ndarray:
        refuse_partial(X, "X")
        with np.errstate(over="ignore", invalid="ignore"):  # a sum shows whether there are NaN
            points = validate_data(self, X, reset=reset, ensure_min_samples=2 if reset else 1)
        if points.dtype.kind not in "biuf":
            raise ValueError(f"X has dtype {points.dtype}; give real numbers")
        points = points.astype(np.float64, copy=False)
        for extreme in (points.min(), points.max()):
            if abs(extreme) > _LARGEST:
                raise ValueError(f"X holds {extreme}; its values must lie within {_LARGEST:g} of 0")
        return points

    def _principal_axes(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean (features,) and axes (D, features) of the leading principal components."""
        exponent = np.frexp(np.abs(points).max())[1]  # variances stay within float64 in a unit of this size
        pca = PCA(n_components=self.components, svd_solver="full").fit(np.ldexp(points, -exponent))
        kept = pca.explained_variance_ > _NEGLIGIBLE_VARIANCE * pca.explained_variance_[0]
        return np.ldexp(pca.mean_, exponent), np.where(kept[:, None], pca.components_, 0.0)

    def _scores(self, points: np.ndarray) -> np.ndarray:
        return points if self.axes_ is None else (points - self.mean_) @ self.axes_.T

    def _knots(self, column: np.ndarray) -> np.ndarray:
        """Values of the column at equal steps of rank, interpolated between neighbours."""
        ends = np.array([column.min(), column.max()])
        if self.kind == "uniform" and not self.trim:
            return ends
        count = 2 if self.kind == "uniform" else min(_QUANTILES, len(column))
        last = len(column) - 1
        ranks = np.linspace(self.trim * last, last - self.trim * last, count)
        knots = np.maximum.accumulate(_between(np.sort(column), ranks))  # rounding can undo the order
        return ends if self.kind == "uniform" and knots[0] == knots[1] else knots


def _between(values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The values at fractional indices, interpolated."""
    below = values[ranks.astype(int)]
    return below + ranks % 1 * (values[np.ceil(ranks).astype(int)] - below)


def _curve(knots: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct knots and their positions, both ascending: equal knots at the mean of their ranks."""
    values, first, count = np.unique(knots, return_index=True, return_counts=True)
    positions = (first + (count - 1) / 2) * top / (len(knots) - 1)
    positions[-1], positions[0] = top, 0
    return values, positions


def _positions(x: np.ndarray, knots: np.ndarray, top: int) -> np.ndarray:
    """The map through the knots, of the shape of x, going on beyond them at its mean slope."""
    values, at = _curve(knots, top)
    if len(values) == 1:
        return np.zeros_like(x)
    # piece 0 lies below all knots, piece j from knot j-1 on
    piece = np.searchsorted(values, x, side="right")
    span = values[-1] - values[0]
    starts, widths = np.r_[values[0], values], np.r_[span, np.diff(values), span]
    bases, rises = np.r_[0, at], np.r_[top, np.diff(at), top]
    with np.errstate(over="ignore"):  # far outside a tiny range a position is infinite
        found = bases[piece] + (x - starts[piece]) / widths[piece] * rises[piece]
    return np.minimum(found, np.r_[at, np.inf][piece])  # rounding does not pass the next knot


def _values(knots: np.ndarray, top: int) -> np.ndarray:
    """The value at each whole position 0 .. top, shape (top + 1,)."""
    values, at = _curve(knots, top)
    levels = np.arange(top + 1)
    guess = _between(values, np.interp(levels, at, np.arange(len(at))))[:, None]
    # where knots are neighbours among the floats, the last digit of a value decides its position
    near = guess + np.spacing(guess) * np.array([0, -1, 1, -2, 2])
    best = np.abs(_positions(near, knots, top) - levels[:, None]).argmin(axis=1)
    return near[levels, best]
