"""Smoothed samples: f^(u) tau(u) of f = sum_m c_m |x_m> and a product filter, as a matrix product state."""

from qrt_tn.states.smoothing.build import AUTO, smoothed_state
from qrt_tn.states.smoothing.error import Estimate, estimated_error
from qrt_tn.states.smoothing.gram import checked_tolerance
from qrt_tn.states.smoothing.state import SmoothedState
from qrt_tn.states.smoothing.width import WidthChoice, automatic_width
from qrt_tn.states.smoothing.work import smoothing_work

__all__ = [
    "AUTO",
    "Estimate",
    "SmoothedState",
    "WidthChoice",
    "automatic_width",
    "checked_tolerance",
    "estimated_error",
    "smoothed_state",
    "smoothing_work",
]
