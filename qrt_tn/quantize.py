"""Quantisers: real features onto the levels 0 .. L-1 of Z_P, with a guard band above them."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import KBinsDiscretizer

from qrt_tn.engine.atomic import load_tensors, save_tensors
from qrt_tn.field import check_prime

FORMAT = "qrt-tn.quantizer"
KINDS = ("uniform", "quantile", "pca-quantile")
SCOPES = ("feature", "global")
# A principal component with less than this share of the largest variance is rounding noise.
NEGLIGIBLE_VARIANCE = 1e-24


class Quantizer:
    """Real features to integer levels 0 .. L-1 inside Z_P, and back to bin centres.

    The levels above L are left free: this *guard band* of width P / L makes the lowest frequencies of
    Z_P slow compared with the range of the data, so that functions of low frequency are smooth on it.

    Scikit-learn fits the bins (KBinsDiscretizer, PCA); after fitting only plain arrays are held.
    Values outside the fitted range go to the nearest level.

    What can be inverted: `transform(inverse_transform(q)) == q` for every q that `transform` returns,
    for "uniform" and "quantile"; for "pca-quantile" up to rounding, since the components are
    orthonormal. `inverse_transform(transform(x))` lies in the bin of x, so within half a bin's width of
    it for x in the fitted range; with PCA only the part of x in the span of the components comes back,
    which is all of it when the components are as many as the features.

    Args:
        kind: "uniform" (bins of equal width), "quantile" (bins of equal count; ties merge bins, so that
            fewer than `levels` may be used) or "pca-quantile" (quantile bins of principal components).
        levels: the number of levels L, 2 <= L <= P.
        modulus: the prime P.
        components: how many principal components to keep; only for "pca-quantile". Left out, as many
            as points and features allow.
        scope: "feature" (bins for each feature) or "global" (one set of bins for all, as for the pixels
            of an image, which share a scale).

    Attributes:
        edges: inner bin edges, shape (D, L-1) or (1, L-1) for the global scope, padded with inf.
        centres: bin centres, shape (D, L) or (1, L), padded with the last centre.
        mean: what PCA subtracts, shape (features,), or None.
        axes: principal axes, shape (D, features), or None.

    Raises:
        ValueError: unknown kind or scope, composite modulus, levels outside 2..P, or components without
            PCA.
    """

    def __init__(
        self,
        kind: str = "uniform",
        levels: int = 17,
        modulus: int = 127,
        components: int | None = None,
        scope: str = "feature",
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"unknown quantiser {kind!r}; choose one of {', '.join(KINDS)}")
        if scope not in SCOPES:
            raise ValueError(f"unknown scope {scope!r}; choose one of {', '.join(SCOPES)}")
        self.modulus = check_prime(modulus)
        self.levels = _count(levels, "levels")
        if not 2 <= self.levels <= self.modulus:
            raise ValueError(f"levels is {levels}; it must lie in 2..{self.modulus} (the modulus)")
        if components is not None:
            if kind != "pca-quantile":
                raise ValueError(
                    f"components is {components!r} for kind {kind!r}; only pca-quantile takes it"
                )
            if _count(components, "components") < 1:
                raise ValueError(f"components is {components}; give at least 1")
        self.kind = kind
        self.scope = scope
        self.components = None if components is None else int(components)
        self.edges: np.ndarray | None = None
        self.centres: np.ndarray | None = None
        self.mean: np.ndarray | None = None
        self.axes: np.ndarray | None = None
        self._features = 0
        self._dim = 0

    def __repr__(self) -> str:
        return f"Quantizer({self.kind!r}, levels={self.levels}, modulus={self.modulus}, scope={self.scope!r})"

    @property
    def guard_band(self) -> float:
        """P / L: how many times the field is wider than the levels in use; 1 means no guard band."""
        return self.modulus / self.levels

    @property
    def dim(self) -> int:
        """The number D of coordinates that `transform` returns."""
        self._check_fitted()
        return self._dim

    @property
    def features(self) -> int:
        """The number of features that `transform` takes; D without PCA."""
        self._check_fitted()
        return self._features

    def fit(self, x: Any) -> "Quantizer":
        """Place the bins on the data.

        Args:
            x: points, shape (M, features), real.

        Returns:
            The quantiser itself.

        Raises:
            ValueError: empty, not two-dimensional, not real, NaN or infinite, constant, or fewer
                features or points than components.
        """
        points = _points(x)
        if (points == points[0]).all():
            raise ValueError("constant data: all points are the same, so there is nothing to quantise")
        mean = axes = None
        scores = points
        if self.kind == "pca-quantile":
            mean, axes, scores = self._principal_components(points)
        columns = scores.reshape(-1, 1) if self.scope == "global" else scores
        strategy = "uniform" if self.kind == "uniform" else "quantile"
        edges = np.full((columns.shape[1], self.levels - 1), np.inf)
        centres = np.empty((columns.shape[1], self.levels))
        for row, column in enumerate(columns.T):
            _fit_bins(column, self.levels, strategy, edges[row], centres[row])
        self.mean, self.axes, self.edges, self.centres = mean, axes, edges, centres
        self._features, self._dim = points.shape[1], scores.shape[1]
        return self

    def transform(self, x: Any) -> np.ndarray:
        """The level of every feature, or of every principal component.

        Args:
            x: points, shape (M, features), real.

        Returns:
            Levels in 0 .. L-1, shape (M, D), int64.

        Raises:
            ValueError: not fitted, another number of features than fitted on, empty, NaN or infinite.
        """
        edges, _ = self._check_fitted()
        points = _points(x)
        if points.shape[1] != self._features:
            raise ValueError(
                f"x has {points.shape[1]} features; the quantiser was fitted on {self._features}"
            )
        if self.mean is not None and self.axes is not None:
            points = (points - self.mean) @ self.axes.T
        if self.scope == "global":
            return np.searchsorted(edges[0], points, side="right").astype(np.int64)
        levels = np.empty(points.shape, dtype=np.int64)
        for i, row in enumerate(edges):
            levels[:, i] = np.searchsorted(row, points[:, i], side="right")
        return levels

    def fit_transform(self, x: Any) -> np.ndarray:
        """Fit on x and return its levels, shape (M, D), int64."""
        return self.fit(x).transform(x)

    def inverse_transform(self, levels: Any) -> np.ndarray:
        """The bin centres of the levels, taken back through PCA where there is one.

        Args:
            levels: shape (M, D), integers in 0 .. L-1. A level that merged bins left empty stands for
                the last bin in use.

        Returns:
            Points, shape (M, features), float64.

        Raises:
            ValueError: not fitted, another shape, not integers, or outside 0 .. L-1.
        """
        _, centres = self._check_fitted()
        index = np.asarray(levels)
        if index.ndim != 2 or index.shape[1] != self._dim:
            raise ValueError(f"levels has shape {index.shape}; it must be (any, {self._dim})")
        if index.dtype.kind not in "iu":
            raise ValueError(f"levels has dtype {index.dtype}; give integers in 0..{self.levels - 1}")
        outside = index[(index < 0) | (index >= self.levels)]
        if outside.size:
            raise ValueError(f"levels holds {outside[0]}; its values must lie in 0..{self.levels - 1}")
        rows = 0 if self.scope == "global" else np.arange(self._dim)
        points = centres[rows, index]
        if self.mean is not None and self.axes is not None:
            return points @ self.axes + self.mean
        return points

    def save(self, path: str | Path) -> None:
        """Write the fitted quantiser to a safetensors file; an existing file is replaced whole."""
        edges, centres = self._check_fitted()
        tensors = {"edges": edges, "centres": centres}
        if self.mean is not None and self.axes is not None:
            tensors |= {"mean": self.mean, "axes": self.axes}
        settings = {
            "kind": self.kind,
            "levels": self.levels,
            "modulus": self.modulus,
            "components": self.components,
            "scope": self.scope,
            "features": self._features,
            "dim": self._dim,
        }
        save_tensors(path, tensors, {"format": FORMAT, "settings": json.dumps(settings)})

    @classmethod
    def load(cls, path: str | Path) -> "Quantizer":
        """Read a quantiser from a file that `save` wrote; it transforms exactly as the saved one.

        Raises:
            ValueError: no such file, a torn file, or one of another kind.
        """
        tensors, metadata = load_tensors(path, FORMAT)
        try:
            settings = json.loads(metadata["settings"])
            features, dim = int(settings.pop("features")), int(settings.pop("dim"))
            quantizer = cls(**settings)
            quantizer.edges, quantizer.centres = tensors["edges"], tensors["centres"]
            quantizer.mean, quantizer.axes = tensors.get("mean"), tensors.get("axes")
            quantizer._features, quantizer._dim = features, dim
            rows = 1 if quantizer.scope == "global" else dim
            if quantizer.edges.shape != (rows, quantizer.levels - 1):
                raise ValueError(f"edges of shape {quantizer.edges.shape} for {quantizer.levels} levels")
            if quantizer.centres.shape != (rows, quantizer.levels):
                raise ValueError(f"centres of shape {quantizer.centres.shape} for {quantizer.levels} levels")
            if quantizer.kind == "pca-quantile" and tensors["axes"].shape != (dim, features):
                raise ValueError(f"axes of shape {tensors['axes'].shape} for {features} features")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold a whole quantiser: {error}") from error
        return quantizer

    def _principal_components(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean (features,), axes (D, features) and scores (M, D) of the leading principal components."""
        allowed = min(points.shape)
        wanted = allowed if self.components is None else self.components
        if wanted > allowed:
            raise ValueError(
                f"components is {wanted}, more than {allowed}, the smaller of {points.shape[0]} points and "
                f"{points.shape[1]} features; ask for fewer"
            )
        pca = PCA(n_components=wanted, svd_solver="full").fit(points)
        variance = pca.explained_variance_
        axes = np.where((variance > NEGLIGIBLE_VARIANCE * variance[0])[:, None], pca.components_, 0.0)
        return pca.mean_, axes, (points - pca.mean_) @ axes.T

    def _check_fitted(self) -> tuple[np.ndarray, np.ndarray]:
        if self.edges is None or self.centres is None:
            raise ValueError("this quantiser has no bins yet; call fit first")
        return self.edges, self.centres


def _fit_bins(column: np.ndarray, levels: int, strategy: str, edges: np.ndarray, centres: np.ndarray) -> None:
    """Bins of one column: fill its row of inner edges (L-1,) and of centres (L,)."""
    width = np.ptp(column)
    if width == 0:
        centres[:] = column[0]  # a constant feature: level 0, whatever comes
        return
    # KBinsDiscretizer drops quantile bins narrower than 1e-8 whatever the feature's unit, so a small
    # feature is measured in a unit of its own size; a power of two, so that no digit changes.
    unit = min(1.0, 2.0 ** np.floor(np.log2(width)))
    binning = KBinsDiscretizer(
        levels,
        encode="ordinal",
        strategy=strategy,
        quantile_method="averaged_inverted_cdf",
        subsample=None,
    )
    with warnings.catch_warnings():
        # ties between quantiles merge bins, which is meant
        warnings.filterwarnings("ignore", message="Bins whose width are too small", category=UserWarning)
        binning.fit(column[:, None] / unit)
    all_edges = binning.bin_edges_[0] * unit
    used = len(all_edges) - 1
    edges[: used - 1] = all_edges[1:-1]
    centres[:used] = (all_edges[1:] + all_edges[:-1]) / 2
    centres[used:] = centres[used - 1]


def _points(x: Any) -> np.ndarray:
    array = np.asarray(x)
    if array.ndim != 2:
        raise ValueError(f"x has shape {array.shape}; it must be (points, features)")
    if array.size == 0:
        raise ValueError(f"x is empty (shape {array.shape}); give at least one point and one feature")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"x has dtype {array.dtype}; give real numbers")
    points = array.astype(np.float64)
    bad = points[~np.isfinite(points)]
    if bad.size:
        raise ValueError(f"x holds {bad[0]}; every value must be finite (fill in or drop such points)")
    return points


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} is {value!r}; give a whole number")
    return int(value)
