"""The Quantum Ridgelet Transform on Z_P^D: ridgelets, states, circuits, exact samples of hidden nodes.

`qrt_tn.engine` holds the tensors below it, `qrt_tn.models` the networks that train above it, `qrt_tn.studies`
the runs, reports and the command line. Each is loaded when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qrt_tn import engine, models, states, studies
    from qrt_tn.baselines import filter_nodes, uniform_nodes
    from qrt_tn.diagnostics import Diagnosis, diagnose
    from qrt_tn.nodes import RidgeNodes
    from qrt_tn.quantize import Quantizer
    from qrt_tn.ridgelet import Ridgelet
    from qrt_tn.sampling import load_chunks
    from qrt_tn.tempered import TemperedNodes, sample_tempered
    from qrt_tn.transform import QuantumRidgeletTransform

_MODULES = ("engine", "models", "states", "studies")
_NAMES = {
    "Diagnosis": "diagnostics",
    "Quantizer": "quantize",
    "QuantumRidgeletTransform": "transform",
    "RidgeNodes": "nodes",
    "Ridgelet": "ridgelet",
    "diagnose": "diagnostics",
    "filter_nodes": "baselines",
    "load_chunks": "sampling",
    "TemperedNodes": "tempered",
    "sample_tempered": "tempered",
    "uniform_nodes": "baselines",
}

__all__ = [
    "Diagnosis",
    "Quantizer",
    "QuantumRidgeletTransform",
    "RidgeNodes",
    "Ridgelet",
    "TemperedNodes",
    "diagnose",
    "engine",
    "filter_nodes",
    "load_chunks",
    "models",
    "sample_tempered",
    "states",
    "studies",
    "uniform_nodes",
]


def __getattr__(name: str) -> Any:
    """Load a public name, or a package, when it is first asked for (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(f"qrt_tn.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"qrt_tn.{_NAMES[name]}"), name)
    raise AttributeError(
        f"module 'qrt_tn' has no attribute {name!r}; networks and estimators are in qrt_tn.models, plans in "
        "qrt_tn.engine"
    )


def __dir__() -> list[str]:
    return sorted(__all__)
