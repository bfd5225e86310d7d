"""States f on Z_P^D: functions whose spectrum can be evaluated and sampled."""

from qrt_tn.states.base import State
from qrt_tn.states.dense import DenseState, from_dense
from qrt_tn.states.description import Description, describe, describe_smoothing
from qrt_tn.states.interpolated import InterpolatedState, from_callable
from qrt_tn.states.mps import MPSState, from_mps
from qrt_tn.states.network import NetworkState, from_network
from qrt_tn.states.points import from_samples
from qrt_tn.states.ridges import RidgeSumState, from_ridges
from qrt_tn.states.samples import SampleState
from qrt_tn.states.smoothing import SmoothedState

__all__ = [
    "DenseState",
    "Description",
    "InterpolatedState",
    "MPSState",
    "NetworkState",
    "RidgeSumState",
    "SampleState",
    "SmoothedState",
    "State",
    "describe",
    "describe_smoothing",
    "from_callable",
    "from_dense",
    "from_mps",
    "from_network",
    "from_ridges",
    "from_samples",
]
