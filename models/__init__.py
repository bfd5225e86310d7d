"""Networks of hidden nodes, their training, and the data they learn from.

Each name is loaded when it is first asked for, so that looking at a data file does not load JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qrt_tn.models.array_files import read_idx
    from qrt_tn.models.datasets import Dataset, load_digits, load_file, one_hot
    from qrt_tn.models.dense import CosineNetwork, DenseNetwork
    from qrt_tn.models.estimators import RidgeletClassifier, RidgeletFeatures, RidgeletRegressor
    from qrt_tn.models.readout import fit_output_weights, select_ridge
    from qrt_tn.models.residual import residual_ticket
    from qrt_tn.models.ridge import RidgeNetwork, importance_weights
    from qrt_tn.models.saved import SavedModel, load
    from qrt_tn.models.shallow_training import TrainingHistory, accuracy, risk, train, train_many
    from qrt_tn.models.splits import Split, split
    from qrt_tn.models.teachers import teacher

_NAMES = {
    "CosineNetwork": "dense",
    "Dataset": "datasets",
    "DenseNetwork": "dense",
    "RidgeNetwork": "ridge",
    "RidgeletClassifier": "estimators",
    "RidgeletFeatures": "estimators",
    "RidgeletRegressor": "estimators",
    "SavedModel": "saved",
    "Split": "splits",
    "TrainingHistory": "shallow_training",
    "accuracy": "shallow_training",
    "fit_output_weights": "readout",
    "importance_weights": "ridge",
    "load": "saved",
    "load_digits": "datasets",
    "load_file": "datasets",
    "one_hot": "datasets",
    "read_idx": "array_files",
    "residual_ticket": "residual",
    "risk": "shallow_training",
    "select_ridge": "readout",
    "split": "splits",
    "teacher": "teachers",
    "train": "shallow_training",
    "train_many": "shallow_training",
}

__all__ = [
    "CosineNetwork",
    "Dataset",
    "DenseNetwork",
    "RidgeNetwork",
    "RidgeletClassifier",
    "RidgeletFeatures",
    "RidgeletRegressor",
    "SavedModel",
    "Split",
    "TrainingHistory",
    "accuracy",
    "fit_output_weights",
    "importance_weights",
    "load",
    "load_digits",
    "load_file",
    "one_hot",
    "read_idx",
    "residual_ticket",
    "risk",
    "select_ridge",
    "split",
    "teacher",
    "train",
    "train_many",
]

if __name__ != "qrt_tn.models":  # a checkout as the working folder; a second copy of every class would follow
    raise ImportError("the folder models/ is the package qrt_tn.models; import it by that name")


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562)."""
    if name in _NAMES:
        return getattr(importlib.import_module(f"qrt_tn.models.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'qrt_tn.models' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
