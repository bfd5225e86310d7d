"""Tensors and nothing of ridgelets: scaled arithmetic, contraction plans, backends, matrix product states."""

from engine.backends import Backend, backends
from engine.expression import Expression
from engine.paths import find_path
from engine.plan import Plan
from engine.planning import contract, plan
from engine.roofline import Device, calibrate, device, devices
from engine.scaled import Scaled

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
