"""The Quantum Ridgelet Transform on Z_P^D: ridgelets, states, circuits, exact samples of hidden nodes."""

from qrt_tn import states
from qrt_tn.baselines import filter_nodes, uniform_nodes
from qrt_tn.diagnostics import Diagnosis, diagnose
from qrt_tn.nodes import RidgeNodes
from qrt_tn.quantize import Quantizer
from qrt_tn.ridgelet import Ridgelet
from qrt_tn.sampling import load_chunks
from qrt_tn.transform import QuantumRidgeletTransform

__all__ = [
    "Diagnosis",
    "Quantizer",
    "QuantumRidgeletTransform",
    "RidgeNodes",
    "Ridgelet",
    "diagnose",
    "filter_nodes",
    "load_chunks",
    "states",
    "uniform_nodes",
]
