"""Scikit-learn estimators: features, a classifier and a regressor of nodes from the ridgelet transform."""

from typing import Any, Self

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
    clone,
)
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from qrt_tn.engine.arguments import check_whole, is_real
from qrt_tn.field import check_prime
from qrt_tn.models.choosing import METHODS, Result, Settings, choose_settings, draw_nodes, quantized
from qrt_tn.models.readout import fit_output_weights
from qrt_tn.quantize import KINDS, Quantizer
from qrt_tn.tempered import TemperedNodes

AUTO = "auto"
WIDTHS = (0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0)
LEVELS = (17, 33)
BETAS = (1.0, 4.0, 16.0, 64.0)
_TRIM = 0.005  # share of points beyond either end of "uniform" levels: one outlier must not take them all
_MOST_ACTIVE = 40.0  # coordinates that a width lets a frequency have, at most, on average
_WIDE = 200  # coordinates from which on only one quantiser is tried


class _Ridgelets(BaseEstimator):
    """What the estimators share: nodes drawn with settings that are given or chosen on validation points."""

    def __init__(
        self,
        n_components: int = 256,
        *,
        method: str = "residual",
        quantizer: Any = AUTO,
        levels: int | str = AUTO,
        modulus: int = 127,
        smoothing: Any = AUTO,
        beta: Any = AUTO,
        sweeps: int = 3,
        subsample: int | None = 16_384,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.method = method
        self.quantizer = quantizer
        self.levels = levels
        self.modulus = modulus
        self.smoothing = smoothing
        self.beta = beta
        self.sweeps = sweeps
        self.subsample = subsample
        self.random_state = random_state

    def _check(self) -> None:
        """Refuse parameters that could not work, by value."""
        for name in ("n_components", "sweeps"):
            check_whole(name, getattr(self, name))
        if self.subsample is not None:
            check_whole("subsample", self.subsample, 2)
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; choose one of {', '.join(METHODS)}")
        if not isinstance(self.quantizer, Quantizer) and self.quantizer not in (AUTO, *KINDS):
            known = ", ".join((AUTO, *KINDS))
            raise ValueError(f"quantizer is {self.quantizer!r}; choose one of {known}, or give a Quantizer")
        for name, least, strict in (("smoothing", 0, True), ("beta", 1, False)):
            value = getattr(self, name)
            if isinstance(value, str) and value == AUTO:
                continue
            if not is_real(value) or value < least or (strict and value == least):
                bound = "above 0" if strict else "of at least 1"
                raise ValueError(f'{name} is {value!r}; give a finite number {bound}, or "auto"')
        if isinstance(self.levels, str) and self.levels != AUTO:
            raise ValueError(f'levels is {self.levels!r}; give a whole number, or "auto"')
        for quantizer in self._quantizers(1):
            quantizer.check()

    def _quantizers(self, features: int) -> list[Quantizer]:
        if isinstance(self.quantizer, Quantizer):
            return [self.quantizer]
        kinds = [self.quantizer]
        if self.quantizer == AUTO:
            kinds = ["uniform"] if features > _WIDE else ["uniform", "quantile"]
        levels: list[Any] = [self.levels]
        if self.levels == AUTO:
            levels = [level for level in LEVELS if level <= check_prime(self.modulus)] or [self.modulus]
        return [
            Quantizer(kind, level, self.modulus, trim=_TRIM if kind == "uniform" else 0.0)
            for kind in kinds
            for level in levels
        ]

    def _candidates(self, features: int) -> list[Settings]:
        """Settings to choose from."""
        betas = [self.beta] if self.beta != AUTO else list(BETAS)
        if self.method != "residual":
            betas = [1.0]
        quantizers = self._quantizers(features)
        fewest = min(quantizer.levels for quantizer in quantizers)
        found = []
        for quantizer in quantizers:
            # at more levels a frequency is higher: only wide filters reach further than at fewer
            least = 1.0 if quantizer.levels > fewest else 0.0
            widths = [self.smoothing] if self.smoothing != AUTO else _widths(features, least)
            found += [Settings(quantizer, float(width), float(beta)) for width in widths for beta in betas]
        return found

    def _draw(self, x: np.ndarray, targets: np.ndarray, labels: np.ndarray | None) -> Result:
        """Choose settings and draw the nodes; the targets (M, C) have mean zero, labels are 0, 1, ..."""
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31, size=4))
        n, sweeps = int(self.n_components), int(self.sweeps)
        candidates = self._candidates(x.shape[1])
        choice, self.search_results_ = choose_settings(
            self.method,
            candidates,
            x,
            targets,
            n,
            labels=labels,
            sweeps=sweeps,
            subsample=self.subsample,
            rng=rng,
        )
        settings, seed = choice.settings, int(rng.integers(2**31))
        points = quantized(clone(settings.quantizer).fit(x), x)
        self.quantizer_ = points.quantizer
        self.nodes_ = draw_nodes(
            self.method, settings, points, targets, n, sweeps=sweeps, subsample=self.subsample, seed=seed
        )
        self.smoothing_, self.beta_ = settings.smoothing, settings.beta
        self.validation_error_ = choice.error
        self._n_features_out = len(self.nodes_)
        return choice

    def _features(self, x: np.ndarray) -> np.ndarray:
        quantizer: Quantizer = self.quantizer_
        nodes: TemperedNodes = self.nodes_
        return nodes.features(quantizer.positions(x))


class _Predictor(_Ridgelets):
    """A ridge regression on the features."""

    def _fit_outputs(self, x: np.ndarray, targets: np.ndarray, labels: np.ndarray | None = None) -> Result:
        choice = self._draw(x, targets, labels)
        self.coef_, self.intercept_ = fit_output_weights(self._features(x), targets, choice.penalty)
        return choice

    def _outputs(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=np.float64)
        return np.asarray(self._features(x) @ self.coef_ + self.intercept_)


# for the docstrings of all three classes
_PARAMETERS = """What is "auto" is chosen by the squared error on inner validation parts, a fifth of points
    (6,000 at the most) each: all settings are tried with up to 64 nodes, the best three with all. Of few
    points, several parts are taken in turns, and after each the better half of the settings goes on. That is
    some hundred small fits, 2 to 30 s on two cores: in a search of your own, give smoothing, beta, levels and
    quantizer, or fit once and take what was chosen.

    Args:
        n_components: the number of nodes N.
        method: "residual" (tempered residual tickets), "qrt" (exact samples of the smoothed transform) or
            "filter" (its filter alone, whatever the targets).
        quantizer: "auto" ("uniform" or "quantile", chosen), a kind of `qrt_tn.Quantizer`, or one with
            levels and a modulus of its own. Nodes are drawn at the levels, and evaluated where points lie
            between them.
        levels: the number of levels of a feature, or "auto" (17 or 33); modulus / levels is the guard band.
        modulus: the prime P.
        smoothing: the width of the filter on frequencies, or "auto".
        beta: the inverse temperature of "residual", at least 1, or "auto".
        sweeps: Gibbs sweeps of a node.
        subsample: points that the nodes of a round are drawn at, other ones every round; None for all. More
            take longer and make better tickets: at a large beta the noise of few points is tempered too.
        random_state: an int, a RandomState or None, as everywhere in scikit-learn.

    Attributes:
        nodes_: `qrt_tn.TemperedNodes`; the first of them are the ticket of fewer.
        quantizer_: fitted.
        smoothing_, beta_: as given or chosen.
        search_results_: a row for each of the settings tried, with its squared error.
        validation_error_: the squared error of those chosen, a point on the inner validation part.
        n_features_in_, feature_names_in_: of the points."""


class RidgeletFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Ridgelets):
    """Features cos(2 pi (a.x - b) / P) of nodes drawn for a target: a supervised transformer.

    {parameters}

    Raises:
        ValueError: from `fit`, for a parameter out of range, by value.

    Example:
        >>> from sklearn.datasets import make_friedman1
        >>> from sklearn.linear_model import LinearRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> from qrt_tn.models import RidgeletFeatures
        >>> X, y = make_friedman1(600, random_state=0)
        >>> pipeline = make_pipeline(RidgeletFeatures(32, beta=16, random_state=0), LinearRegression())
        >>> bool(pipeline.fit(X[:400], y[:400]).score(X[400:], y[400:]) > 0.9)
        True
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Draw nodes for points (M, D) and their targets: labels, or floats of shape (M,) or (M, C).

        Integers and strings are taken for labels, floats for numbers.
        """
        self._check()
        x, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=False)
        y = np.asarray(y.tolist()) if y.dtype == object else np.asarray(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        labels = None
        if y.ndim == 1 and y.dtype.kind != "f":
            y = _binarised(y)[1]
            labels = y.argmax(axis=1)
        self._draw(x, _standardised(y.reshape(len(x), -1).astype(np.float64))[0], labels)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The features of points (M, D), float64 of shape (M, N)."""
        check_is_fitted(self)
        return self._features(validate_data(self, X, reset=False, dtype=np.float64))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


class RidgeletClassifier(ClassifierMixin, _Predictor):
    """Classify by ridge regression on ridgelet features.

    {parameters}
        classes_: the labels.
        temperature_: of the softmax of the outputs, chosen on the validation part.
        coef_: output weights, shape (N, classes).
        intercept_: shape (classes,).

    Raises:
        ValueError: from `fit`, for a parameter out of range, by value.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from qrt_tn.models import RidgeletClassifier
        >>> X, y = load_digits(return_X_y=True)
        >>> classifier = RidgeletClassifier(64, smoothing=0.6, beta=64, levels=17, random_state=0)
        >>> bool(classifier.fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.9)
        True
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to points (M, D) and their labels (M,)."""
        self._check()
        x, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, targets = _binarised(np.asarray(y))
        self.target_mean_ = targets.mean(axis=0)
        choice = self._fit_outputs(x, targets - self.target_mean_, targets.argmax(axis=1))
        labels = (choice.targets + self.target_mean_).argmax(axis=1)
        self.temperature_ = _temperature(choice.outputs + self.target_mean_, labels)
        return self

    def _scores(self, X: Any) -> np.ndarray:
        return self._outputs(X) + self.target_mean_

    def decision_function(self, X: Any) -> np.ndarray:
        """The outputs of points (M, D): (M, classes), or (M,) for two classes, above 0 for the second."""
        outputs = self._scores(X)
        if outputs.shape[1] == 1:  # one label in all the training points
            return outputs[:, 0]
        return outputs[:, 1] - outputs[:, 0] if len(self.classes_) == 2 else outputs

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, (M, classes): the softmax of outputs over the temperature."""
        return np.asarray(softmax(self._scores(X) / self.temperature_, axis=1))

    def predict(self, X: Any) -> np.ndarray:
        """The label with the largest output at each of the points (M, D)."""
        best = self._scores(X).argmax(axis=1)
        return np.asarray(self.classes_[best])


class RidgeletRegressor(RegressorMixin, _Predictor):
    """Predict numbers by ridge regression on ridgelet features, in the units of the targets.

    {parameters}
        coef_: output weights of standardised targets, shape (N, C).
        intercept_: shape (C,).

    Raises:
        ValueError: from `fit`, for a parameter out of range, by value.

    Example:
        >>> from sklearn.datasets import make_friedman1
        >>> from qrt_tn.models import RidgeletRegressor
        >>> X, y = make_friedman1(600, random_state=0)
        >>> regressor = RidgeletRegressor(64, beta=16, random_state=0).fit(X[:400], y[:400])
        >>> bool(regressor.score(X[400:], y[400:]) > 0.9)
        True
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to points (M, D) and their targets, (M,) or (M, C)."""
        self._check()
        x, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        y = np.asarray(y, dtype=np.float64)
        self.one_output_ = y.ndim == 1
        targets, self.target_mean_, self.target_scale_ = _standardised(y.reshape(len(x), -1))
        self._fit_outputs(x, targets)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The targets at points (M, D), of the shape of those fitted to."""
        outputs = self._outputs(X) * self.target_scale_ + self.target_mean_
        return outputs[:, 0] if self.one_output_ else outputs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


for _kind in (RidgeletFeatures, RidgeletClassifier, RidgeletRegressor):
    if _kind.__doc__ is not None:  # python -OO strips it
        _kind.__doc__ = _kind.__doc__.replace("{parameters}", _PARAMETERS)


def _widths(features: int, least: float) -> list[float]:
    """Widths, from the least, that leave a frequency not too many of so many coordinates."""
    steps = np.arange(1, 64)
    zero = {width: 1 / (1 + 2 * np.exp(-((steps / width) ** 2)).sum()) for width in WIDTHS}
    found = [width for width in WIDTHS if width >= least and features * (1 - zero[width]) <= _MOST_ACTIVE]
    return found if found or least > 0 else [WIDTHS[0]]


def _binarised(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes, and one column of 0 and 1 for each."""
    classes, labels = np.unique(y, return_inverse=True)
    return classes, np.eye(len(classes))[labels]


def _standardised(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns of mean 0 and deviation 1, what was subtracted, and what they were divided by."""
    constant = (y == y[0]).all(axis=0)
    peaks = np.where(np.abs(y).max(axis=0) > 0, np.abs(y).max(axis=0), 1.0)  # squares must stay in range
    small = y / peaks
    means = small.mean(axis=0)
    scales = np.where(constant, 1.0, (small - means).std(axis=0))
    return np.where(constant, 0.0, (small - means) / scales), means * peaks, scales * peaks


def _temperature(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which the softmax of outputs gives labels the largest likelihood."""

    def loss(log_temperature: float) -> float:
        logs = log_softmax(outputs / np.exp(log_temperature), axis=1)
        return -float(logs[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-6.0, 3.0), method="bounded").x))
