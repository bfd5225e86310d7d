"""Teachers: trained networks as functions on Z_P^D, ready for `states.from_callable`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils.validation import check_is_fitted

from qrt_tn.quantize import Quantizer

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function")
# Points are evaluated in batches; Flax networks in one fixed shape, so that each compiles once.
_BATCH = 4096


def teacher(
    network: Any,
    quantizer: Quantizer | None = None,
    *,
    outputs: str | None = None,
    mean: Any = 0.0,
) -> Callable[[np.ndarray], np.ndarray]:
    """A trained network as a function on the grid, batch by batch.

    The transform of its state samples a ticket from what the network has learnt:

        state = states.from_callable(teacher(network, quantizer), quantizer.modulus, quantizer.dim,
                                     levels=quantizer.levels, points=quantizer.transform(x_train))

    Args:
        network: a Flax network (in evaluation mode, `network.eval()`, where that makes a difference), a
            fitted scikit-learn estimator, or anything that can be called with points (batch, features).
        quantizer: the fitted quantiser of the network's training data: a level stands for the point there.
            Without one the network takes the grid points themselves, as a `RidgeNetwork` does.
        outputs: the method of a scikit-learn estimator that is meant; left out, predict_proba for a
            classifier that has it, else decision_function, and predict for a regressor. "predict" of a
            classifier gives 1 for the class predicted and 0 for the others. Scores and logits take far
            smaller bonds than probabilities, which saturate.
        mean: subtracted from the outputs, shape (C,) or a number. Take the mean over uniform points, or nodes
            are spent on a = 0.

    Returns:
        A function of points, int in 0..P-1 of shape (N, D), that gives (N,) or (N, C).

    Raises:
        ValueError: what cannot be called or has no such method, or a quantiser that is not fitted.

    Example:
        >>> import numpy as np
        >>> quantizer = Quantizer(levels=3, modulus=5).fit([[0.0, 0.0], [4.0, 2.0]])
        >>> teacher(lambda x: x.sum(axis=1), quantizer)(np.array([[0, 0], [1, 2]])).tolist()
        [0.0, 4.0]
    """
    evaluate = _evaluator(network, outputs)
    if quantizer is not None:
        if not isinstance(quantizer, Quantizer):
            raise ValueError(f"the quantizer is a {type(quantizer).__name__}; give a fitted qrt_tn.Quantizer")
        check_is_fitted(quantizer)
    shift = np.asarray(mean)
    if shift.dtype.kind not in "biufc" or shift.ndim > 1 or not np.isfinite(shift).all():
        raise ValueError(f"mean is {mean!r}; give a number, or one for each output")

    def outputs_at(points: np.ndarray) -> np.ndarray:
        values = np.asarray(evaluate(points if quantizer is None else _features(points, quantizer)))
        return values - shift.astype(np.result_type(values.dtype, np.float32), copy=False)

    return lambda points: np.concatenate(
        [outputs_at(points[start : start + _BATCH]) for start in range(0, len(points), _BATCH)]
    )


def _features(points: np.ndarray, quantizer: Quantizer) -> np.ndarray:
    """The features that levels stand for."""
    if points.size and points.max() >= quantizer.levels:
        raise ValueError(
            f"level {points.max()} lies in the guard band above the {quantizer.levels} levels of the "
            f"quantizer, where there is no network; pass levels={quantizer.levels} to from_callable"
        )
    return quantizer.inverse_transform(points)


def _evaluator(network: Any, outputs: str | None) -> Callable[[np.ndarray], Any]:
    """What gives the outputs of a batch of features."""
    if isinstance(network, BaseEstimator):
        return _estimator(network, outputs)
    if outputs is not None:
        raise ValueError(f"outputs is {outputs!r}; only a scikit-learn estimator has outputs to choose from")
    if isinstance(network, nnx.Module):
        return lambda batch: _padded(network, batch)
    if not callable(network):
        raise ValueError(f"the network is a {type(network).__name__}, which cannot be called on points")
    return network


def _estimator(network: BaseEstimator, outputs: str | None) -> Callable[[np.ndarray], Any]:
    if outputs is None:
        choices = ("predict_proba", "decision_function") if is_classifier(network) else ("predict",)
        outputs = next((name for name in choices if hasattr(network, name)), "predict")
    if outputs not in METHODS or not hasattr(network, outputs):
        having = ", ".join(name for name in METHODS if hasattr(network, name))
        raise ValueError(f"{type(network).__name__} has no outputs {outputs!r}; choose one of {having}")
    method = getattr(network, outputs)
    if outputs == "predict" and is_classifier(network):
        return lambda batch: (method(batch)[:, None] == network.classes_).astype(np.float64)
    return method


def _padded(network: nnx.Module, batch: np.ndarray) -> np.ndarray:
    full = np.zeros((_BATCH, batch.shape[1]), dtype=np.float32)
    full[: len(batch)] = batch
    return np.asarray(_jitted_call(network, jnp.asarray(full)))[: len(batch)]


@nnx.jit
def _jitted_call(network: Any, x: jax.Array) -> jax.Array:
    return network(x)
