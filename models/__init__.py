"""Networks of hidden nodes, their training, and the data they learn from."""

from qrt_tn.models.datasets import Dataset, Split, load_digits, load_file, one_hot, split
from qrt_tn.models.dense import CosineNetwork, DenseNetwork
from qrt_tn.models.estimators import RidgeletClassifier, RidgeletFeatures, RidgeletRegressor
from qrt_tn.models.idx import read_idx
from qrt_tn.models.readout import fit_output_weights, select_ridge
from qrt_tn.models.residual import residual_ticket
from qrt_tn.models.ridge import RidgeNetwork, importance_weights
from qrt_tn.models.teachers import teacher
from qrt_tn.models.training import TrainingHistory, accuracy, risk, train, train_many

__all__ = [
    "CosineNetwork",
    "Dataset",
    "DenseNetwork",
    "RidgeNetwork",
    "RidgeletClassifier",
    "RidgeletFeatures",
    "RidgeletRegressor",
    "Split",
    "TrainingHistory",
    "accuracy",
    "fit_output_weights",
    "importance_weights",
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
