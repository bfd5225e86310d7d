"""Tensors and nothing of ridgelets: scaled arithmetic, contraction plans, backends, matrix product states."""

from qrt_tn.engine.backends import Backend, backends
from qrt_tn.engine.expression import Expression
from qrt_tn.engine.paths import find_path
from qrt_tn.engine.plan import Plan
from qrt_tn.engine.planning import contract, plan
from qrt_tn.engine.roofline import Device, calibrate, device, devices
from qrt_tn.engine.scaled import Scaled

__all__ = [
    "Backend",
    "Device",
    "Expression",
    "Plan",
    "Scaled",
    "backends",
    "calibrate",
    "contract",
    "device",
    "devices",
    "find_path",
    "plan",
]

if __name__ != "qrt_tn.engine":  # a checkout as the working folder; a second copy of every class would follow
    raise ImportError("the folder engine/ is the package qrt_tn.engine; import it by that name")
