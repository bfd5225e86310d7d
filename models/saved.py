"""Fitted models in a folder, saved as safetensors, loaded to predict from tables or arrays."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from qrt_tn.engine.files import load_tensors, save_tensors
from qrt_tn.models.columns import Columns
from qrt_tn.models.estimators import RidgeletClassifier, RidgeletRegressor
from qrt_tn.quantize import Quantizer
from qrt_tn.tempered import TemperedNodes

FORMAT = "qrt-tn.model-3"
MODEL, NODES, QUANTIZER = "model.safetensors", "nodes.safetensors", "quantizer.safetensors"
SUBFOLDER = "model"  # of the folder of a run
# what fitting leaves in an estimator, some of it in one kind only
_NUMBERS = ("smoothing_", "beta_", "temperature_", "one_output_")
_WEIGHTS = ("coef_", "intercept_", "target_mean_", "target_scale_")
_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (RidgeletClassifier, RidgeletRegressor)}


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A fitted estimator, and how data are read for it.

    Attributes:
        estimator: fitted; its classes are 0 .. C-1.
        columns: of the table it learnt from; None for an array.
        fills: what missing numbers become, shape (D,); None if there must be none.
        target: the name of what is predicted.
        class_values: the C labels; None for numbers.
        image_shape: of one point, where points are images.
    """

    estimator: Any
    columns: Columns | None
    fills: np.ndarray | None
    target: str
    class_values: tuple[Any, ...] | None
    image_shape: tuple[int, ...] | None

    def predict(self, X: Any) -> np.ndarray:
        """Labels as they were in the data, or numbers in the units of the target.

        Args:
            X: a data frame with the columns learnt from, in any order, others ignored; or an array (M, D)
                with them in order; or images, (M, height, width) or (M, height, width, 3).

        Returns:
            Shape (M,), or (M, C) for C real targets.

        Raises:
            ValueError: missing columns, another shape, text where numbers were, or missing numbers where
                there were none.
        """
        found = np.asarray(self.estimator.predict(self.inputs(X)))
        if self.class_values is None:
            return found
        return np.asarray(self.class_values)[found]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the labels in the order of `class_values`, (M, C); ValueError for numbers."""
        if self.class_values is None:
            raise ValueError("this model predicts numbers; probabilities are of classes")
        return np.asarray(self.estimator.predict_proba(self.inputs(X)))

    def inputs(self, X: Any) -> np.ndarray:
        """What the estimator takes for points, float64 (M, D); ValueError as `predict`."""
        x = self.matrix(X)
        missing = np.isnan(x)
        if missing.any():
            if self.fills is None:
                column = int(np.flatnonzero(missing.any(axis=0))[0])
                raise ValueError(
                    f"{self._name(column)} has {int(missing[:, column].sum())} missing values, and the data "
                    "learnt from had none; fill them in"
                )
            x = np.where(missing, self.fills, x)
        return x

    def matrix(self, X: Any) -> np.ndarray:
        """The coordinates of points, float64 (M, D), NaN where missing; else ValueError as `predict`."""
        if hasattr(X, "columns") and hasattr(X, "iloc"):
            if self.columns is None:
                raise ValueError("this model learnt from an array; give an array, such as frame.to_numpy()")
            return self.columns.matrix(X)
        x = np.asarray(X)
        if self.columns is not None:
            import pandas as pd

            names = [column.name for column in self.columns.features]
            if x.ndim != 2 or x.shape[1] != len(names):
                raise ValueError(
                    f"X has shape {x.shape}; give a data frame, or (M, {len(names)}) with the columns "
                    f"{', '.join(names[:6])}{', ...' if len(names) > 6 else ''} in this order"
                )
            return self.columns.matrix(pd.DataFrame(x, columns=names))
        if self.image_shape is not None and x.shape[1:] == tuple(self.image_shape):
            x = x.reshape(len(x), -1)
        if x.ndim != 2 or x.shape[1] != self.estimator.n_features_in_ or x.dtype.kind not in "biuf":
            wanted = f"(M, {self.estimator.n_features_in_})"
            if self.image_shape is not None:
                wanted += f" or (M, {', '.join(map(str, self.image_shape))})"
            raise ValueError(f"X has shape {x.shape}, {x.dtype}; give numbers of shape {wanted}")
        return x.astype(np.float64)

    def _name(self, coordinate: int) -> str:
        if self.columns is None:
            return f"feature {coordinate}"
        return f"column {self.columns.names[coordinate]!r}"


def save(folder: str | Path, model: SavedModel) -> None:
    """Write a model to a folder, as safetensors; the files of one that is there are replaced one by one."""
    place, estimator = Path(folder), model.estimator
    place.mkdir(parents=True, exist_ok=True)
    estimator.nodes_.save(place / NODES)
    estimator.quantizer_.save(place / QUANTIZER)
    about = {
        "estimator": type(estimator).__name__,
        "parameters": estimator.get_params(deep=False) | {"quantizer": None},  # the fitted one has a file
        "fitted": {name: getattr(estimator, name) for name in _NUMBERS if hasattr(estimator, name)},
        "columns": None if model.columns is None else model.columns.to_json(),
        "fills": model.fills,
        "target": model.target,
        "class_values": model.class_values,
        "image_shape": model.image_shape,
        "digests": _digests(place),
    }
    weights = {name: getattr(estimator, name) for name in _WEIGHTS if hasattr(estimator, name)}
    text = json.dumps(about, default=lambda value: np.asarray(value).tolist())
    save_tensors(place / MODEL, weights, {"format": FORMAT, "about": text})


def load(folder: str | Path) -> SavedModel:
    """Read a model from the folder of a run of `qrt-tn ticket`, or from its subfolder "model".

    Nothing is unpickled: the files are safetensors, with JSON in their metadata.

    Raises:
        ValueError: no such folder, no model in it, or one that is not whole or was changed.
    """
    place = Path(folder)
    if not (place / MODEL).is_file():
        place = place / SUBFOLDER
    if not (place / MODEL).is_file():
        raise ValueError(f"{folder} holds no model; give the output folder of qrt-tn ticket")
    weights, metadata = load_tensors(place / MODEL, FORMAT)
    nodes, quantizer = TemperedNodes.load(place / NODES), Quantizer.load(place / QUANTIZER)
    try:
        about = json.loads(metadata["about"])
        if about["digests"] != _digests(place):
            raise ValueError("its nodes or quantiser are those of another model")
        estimator = _KINDS[about["estimator"]](**about["parameters"] | {"quantizer": quantizer})
        _fit(estimator, nodes, quantizer, about["fitted"], weights)
        columns = _read(about["columns"], Columns.from_json)
        fills = _read(about["fills"], partial(np.array, dtype=np.float64))
        values, shape = _read(about["class_values"], tuple), _read(about["image_shape"], tuple)
        return SavedModel(estimator, columns, fills, str(about["target"]), values, shape)
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{place} does not hold a whole model: {error}") from error


def _digests(place: Path) -> list[str]:
    return [sha256((place / name).read_bytes()).hexdigest() for name in (NODES, QUANTIZER)]


def _read(value: Any, read: Callable[[Any], Any]) -> Any:
    return None if value is None else read(value)


def _fit(
    estimator: Any,
    nodes: TemperedNodes,
    quantizer: Quantizer,
    numbers: dict[str, float],
    weights: dict[str, np.ndarray],
) -> None:
    """Give an estimator what fitting gave the saved one."""
    for name, value in (numbers | weights).items():
        setattr(estimator, name, value)
    if isinstance(estimator, RidgeletClassifier):
        estimator.classes_ = np.arange(len(estimator.intercept_))
    estimator.nodes_, estimator.quantizer_ = nodes, quantizer
    estimator.n_features_in_, estimator._n_features_out = quantizer.n_features_in_, len(nodes)
