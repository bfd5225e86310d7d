"""Tensors and nothing of ridgelets: scaled arithmetic, contraction plans, backends, matrix product states."""

from engine.backends import Backend, backends
from engine.paths import find_path
from engine.plan import Plan, contract, plan
from engine.scaled import Scaled

__all__ = ["Backend", "Plan", "Scaled", "backends", "contract", "find_path", "plan"]
