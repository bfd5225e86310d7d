"""Networks of hidden nodes, their training, and the data they learn from."""

from models.datasets import Dataset, Split, load_digits, load_file, one_hot, split
from models.dense import CosineNetwork, DenseNetwork
from models.idx import read_idx
from models.readout import fit_output_weights, select_ridge
from models.ridge import RidgeNetwork, importance_weights
from models.teachers import teacher
from models.training import TrainingHistory, accuracy, risk, train, train_many

__all__ = [
    "CosineNetwork",
    "Dataset",
    "DenseNetwork",
    "RidgeNetwork",
    "Split",
    "TrainingHistory",
    "accuracy",
    "fit_output_weights",
    "importance_weights",
    "load_digits",
    "load_file",
    "one_hot",
    "read_idx",
    "risk",
    "select_ridge",
    "split",
    "teacher",
    "train",
    "train_many",
]
