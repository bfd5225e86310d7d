"""Networks of hidden nodes, their training, and the data they learn from.

Each name is loaded when it is first asked for, so that looking at a data file does not load JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names, for type checkers
    from qrt_tn.models.array_files import read_idx as read_idx
    from qrt_tn.models.datasets import Dataset as Dataset
    from qrt_tn.models.datasets import load_digits as load_digits
    from qrt_tn.models.datasets import load_file as load_file
    from qrt_tn.models.datasets import one_hot as one_hot
    from qrt_tn.models.dense import CosineNetwork as CosineNetwork
    from qrt_tn.models.dense import DenseNetwork as DenseNetwork
    from qrt_tn.models.estimators import RidgeletClassifier as RidgeletClassifier
    from qrt_tn.models.estimators import RidgeletFeatures as RidgeletFeatures
    from qrt_tn.models.estimators import RidgeletRegressor as RidgeletRegressor
    from qrt_tn.models.readout import fit_output_weights as fit_output_weights
    from qrt_tn.models.readout import select_ridge as select_ridge
    from qrt_tn.models.residual import residual_ticket as residual_ticket
    from qrt_tn.models.ridge import RidgeNetwork as RidgeNetwork
    from qrt_tn.models.ridge import importance_weights as importance_weights
    from qrt_tn.models.saved import SavedModel as SavedModel
    from qrt_tn.models.saved import load as load
    from qrt_tn.models.shallow_training import TrainingHistory as TrainingHistory
    from qrt_tn.models.shallow_training import train as train
    from qrt_tn.models.shallow_training import train_many as train_many
    from qrt_tn.models.splits import Split as Split
    from qrt_tn.models.splits import split as split
    from qrt_tn.models.teachers import teacher as teacher

# the names of each module
_EXPORTS = {
    "array_files": "read_idx",
    "datasets": "Dataset load_digits load_file one_hot",
    "dense": "CosineNetwork DenseNetwork",
    "estimators": "RidgeletClassifier RidgeletFeatures RidgeletRegressor",
    "readout": "fit_output_weights select_ridge",
    "residual": "residual_ticket",
    "ridge": "RidgeNetwork importance_weights",
    "saved": "SavedModel load",
    "shallow_training": "TrainingHistory train train_many",
    "splits": "Split split",
    "teachers": "teacher",
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names.split()}

__all__ = list(_MODULE_OF)

if __name__ != "qrt_tn.models":  # a checkout as the working folder; a second copy of every class would follow
    raise ImportError("the folder models/ is the package qrt_tn.models; import it by that name")


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562)."""
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"qrt_tn.models.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'qrt_tn.models' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
